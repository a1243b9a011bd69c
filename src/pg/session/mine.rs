//! What one client's own session carries from server to server, and what its statements hint at. Hints decide what is
//! asked after a transaction: being wrong loses something of the client's own. What another client may meet is decided
//! by [`proof`](super::proof) alone.

use super::label::{Carried, Label, Setting};
use super::ours::{Ours, text_array};
use super::proof::Use;
use super::rule::{self, Rule};
use super::scan::{Asks, Pin, Scan, Tag};
use super::server::Found;
use super::touched::{NAME, Named, Touched, is_of_the_transaction};

/// How far what clients leave behind is looked after (`pool.sessionState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Care {
    /// Carried and kept apart; nothing is scrubbed that is proven clean.
    #[default]
    Preserve,
    /// Scrubbed at every change of client.
    Strict,
    /// The list of harmless statements alone, whatever routines the database has.
    Trusting,
    /// As `Preserve`, but what would bind a client to a server is refused.
    Reject,
}

/// Names of custom settings (`app.x`) that somebody has set. PostgreSQL has no way to forget one: it reads as an empty
/// text from then on, and not as unset.
#[derive(Debug, Default)]
pub struct Customs(Vec<Box<[u8]>>);

/// Most names that are kept; a session with more is not lent to clients that can tell.
const MOST_CUSTOMS: usize = 64;

impl Customs {
    /// Adds a name; those without a dot are no custom settings.
    pub fn add(&mut self, name: &[u8]) {
        if name.contains(&b'.') && !self.0.iter().any(|known| **known == *name) && self.0.len() <= MOST_CUSTOMS {
            self.0.push(name.into());
        }
    }

    /// Whether all of these are among `others`.
    pub fn are_within(&self, others: &Self) -> bool {
        self.0.len() <= MOST_CUSTOMS && self.0.iter().all(|name| others.0.contains(name))
    }

    /// Adds all of another's.
    pub fn add_all(&mut self, others: &Self) {
        others.0.iter().for_each(|name| self.add(name));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a client has run since it got its server, or since the last audit.
#[derive(Debug, Default)]
struct Hints {
    asks: Asks,
    frees: Asks,
    calls: bool,
    touched: Option<Box<Touched>>,
}

/// How far a change of what sessions begin with has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Defaults {
    #[default]
    Kept,
    /// A text that may change them was sent.
    Named,
    /// It has completed; the transaction may still be open.
    Changed,
}

/// One client's session.
#[derive(Debug, Default)]
pub struct Mine {
    /// Its settings, role and the like.
    pub label: Carried,
    /// What binds it to its server for as long as it stays: nothing can be asked about it.
    hard: Option<Pin>,
    /// What an audit found that binds it to its server.
    bound: Option<Pin>,
    hints: Hints,
    /// The audit under way asks about settings.
    asked_settings: bool,
    /// A statement of this transaction sets something for the transaction only.
    pub sets: bool,
    /// Something that it ran on this server is on no list of harmless things.
    touches: bool,
    /// Something that it ran on this server is more than constants.
    varied: bool,
    /// It has asked for last values of sequences.
    pub asks_sequences: bool,
    /// It has prepared statements by SQL on this server.
    pub has_prepared: bool,
    /// It was told that its `application_name` has gone back to what its server began with; it is set again, and told.
    pub name_was_reset: bool,
    /// Custom settings that it has set at any time, be it for a transaction.
    pub customs: Customs,
    defaults: Defaults,
    /// It has run what may be undone by nothing but the server's end.
    hides: bool,
    /// It has run a DO on this server.
    does: bool,
    /// At any time one that may define something, or what nobody has read.
    does_more: bool,
    /// It started without an `application_name`.
    pub nameless: bool,
}

impl Mine {
    /// Nothing of what was taken of the client has run, and it is taken again for another server.
    pub fn begin_again(&mut self) {
        self.hints = Hints::default();
        self.sets = false;
        self.does = false;
        self.has_prepared = false;
        self.defaults = Defaults::Kept;
    }

    /// A command has completed that changes what sessions begin with, if its text is one of those.
    pub fn changed_defaults(&mut self) {
        if self.defaults == Defaults::Named {
            self.defaults = Defaults::Changed;
        }
    }

    /// Whether what sessions begin with was changed by the transaction that has ended; forgotten when asked.
    pub fn take_defaults_changed(&mut self) -> bool {
        std::mem::take(&mut self.defaults) == Defaults::Changed
    }

    /// What binds the client to its server, if anything does.
    pub fn pin(&self) -> Option<Pin> {
        let pin = self.hard.or(self.bound);
        if self.hides { pin.map(|_| Pin::Code) } else { pin }
    }

    /// From now on the client keeps its server until it leaves.
    pub fn keep(&mut self, pin: Pin) {
        self.hard.get_or_insert(pin);
        self.touches = true;
    }

    /// Its names for statements of the protocol were left on its server: whoever comes next has it scrubbed.
    pub fn leaves_names(&mut self) {
        self.touches = true;
    }

    /// Whether a setting may hold now that is not in the label: something parsed now may depend on it.
    pub fn is_unsettled(&self) -> bool {
        self.touches
    }

    /// A text is sent, or a statement with that text is run.
    pub fn note(&mut self, scan: Scan) {
        self.sets |= scan.sets;
        self.touches |= scan.touches && !rule::off(Rule::Listed);
        self.varied |= !scan.constant;
        self.hints.calls |= scan.calls;
        self.hides |= scan.hides;
        self.does |= scan.does;
        self.does_more |= scan.does_more;
        self.hints.asks = self.hints.asks.and(scan.asks);
        self.hints.frees = self.hints.frees.and(scan.frees);
        self.has_prepared |= scan.prepares;
        if scan.defaults && self.defaults == Defaults::Kept {
            self.defaults = Defaults::Named;
        }
        if let Some(pin) = scan.pin {
            self.keep(pin);
        }
    }

    /// Something is sent whose text nobody has read: a function call, or more than may be held.
    pub fn note_unseen(&mut self) {
        self.touches = true;
        self.varied = true;
        self.does_more = true;
        self.hints.asks = Asks::ALL;
    }

    /// Whether a DO that has completed was one whose text shows that it defines nothing.
    pub fn does_plainly(&self) -> bool {
        self.does && !self.does_more
    }

    /// A command has completed.
    pub fn note_tag(&mut self, tag: Tag) {
        self.hints.asks = self.hints.asks.and(tag.asks);
        self.touches |= tag.touches && !rule::off(Rule::Listed);
        self.varied |= tag.touches;
    }

    /// Names of settings that may change; only worth the search if the text has asked about settings.
    pub fn touched(&mut self) -> &mut Touched {
        self.hints.touched.get_or_insert_default()
    }

    /// Whether an empty `application_name` is the client's own, and not what its server began with: it started with none, or
    /// a text of this transaction has set it last.
    pub fn may_be_nameless(&self) -> bool {
        self.nameless || self.named() == Some(Named::Set)
    }

    /// Whether a text of this transaction has reset the client's `application_name` last.
    pub fn has_reset_name(&self) -> bool {
        self.named() == Some(Named::Reset)
    }

    fn named(&self) -> Option<Named> {
        self.hints.touched.as_deref()?.name
    }

    /// The server told of a change of this setting, and no statement said why.
    pub fn note_parameter(&mut self, name: &[u8]) {
        let reset =
            |touched: &Touched| touched.all || touched.reset.iter().any(|known| name.eq_ignore_ascii_case(known));
        if self.hints.touched.as_deref().is_some_and(reset) {
            return;
        }
        self.touches = true;
        self.varied = true;
        self.hints.asks = self.hints.asks.and(Asks::SETTINGS);
        self.touched().add_candidate(name);
    }

    /// Whether anything can have changed that is worth asking about, now that the transaction has ended.
    pub fn wants_audit(&self, quiet: bool) -> bool {
        let hints = &self.hints;
        !hints.asks.is_empty() || (hints.calls && !quiet) || (self.bound.is_some() && !hints.frees.is_empty())
    }

    /// What to ask, and about which settings (a text array).
    pub fn questions(&mut self, quiet: bool) -> (Vec<Ours>, Vec<u8>) {
        let mut asks = self.hints.asks;
        if self.hints.calls && !quiet {
            asks = Asks::ALL;
        }
        if self.bound.is_some() {
            // Free only if nothing at all binds it.
            let all = [Asks::LISTEN, Asks::LOCKS, Asks::CURSORS, Asks::PREPARED, Asks::TEMPORARY];
            asks = all.into_iter().fold(asks, Asks::and);
        }
        let settings = Asks::SETTINGS.and(Asks::ALL_SETTINGS);
        self.asked_settings = asks.has(settings);
        let list = [
            (settings, Ours::AskSettings),
            (Asks::ALL_SETTINGS, Ours::AskAllSettings),
            (Asks::LISTEN, Ours::AskListen),
            (Asks::LOCKS, Ours::AskLocks),
            (Asks::CURSORS, Ours::AskCursors),
            (Asks::PREPARED, Ours::AskPrepared),
            (Asks::TEMPORARY, Ours::AskTemporary),
        ];
        let questions = list.into_iter().filter(|(kind, _)| asks.has(*kind)).map(|(_, question)| question).collect();
        let none = Touched::default();
        let touched = self.hints.touched.as_deref().unwrap_or(&none);
        let known = self.label.settings().map(|(name, _)| name);
        let names = known.chain(touched.set.iter().chain(&touched.reset).map(|name| &**name));
        (questions, text_array(names))
    }

    /// Whether the audit is a full one.
    pub fn asks_all(&self) -> bool {
        self.hints.asks.has(Asks::ALL_SETTINGS) || self.hints.calls
    }

    /// An audit has ended: its answers, or none if it failed; then the client keeps its server.
    pub fn audited(&mut self, found: Option<Found>) {
        let touched = std::mem::take(&mut self.hints).touched.unwrap_or_default();
        self.sets = false;
        let Some(found) = found.filter(|found| !found.overflow) else {
            if touched.name == Some(Named::Reset) {
                // It stays on its server, where the name is what that began with: its own is set again, not the one before.
                let others = self.label.settings().filter(|(name, _)| *name != NAME);
                self.label = Label::new(others.map(|(name, value)| (name.into(), value.into())).collect()).into();
            }
            return self.keep(Pin::Unexplained);
        };
        self.bound = found.bound.filter(|_| !rule::off(Rule::Bound));
        self.has_prepared &= self.bound.is_some();
        if touched.too_many {
            return self.keep(Pin::Setting);
        }
        if !std::mem::take(&mut self.asked_settings) {
            return;
        }
        let mut customs = std::mem::take(&mut self.customs);
        let label = self.relabelled(&touched, found, &mut customs);
        self.customs = customs;
        if !label.is_small() {
            self.keep(Pin::Setting);
        } else if label != *self.label {
            self.label = label.into();
        }
    }

    /// The label with what an audit found.
    fn relabelled(&self, touched: &Touched, found: Found, customs: &mut Customs) -> Label {
        let mut settings: Vec<Setting> = Vec::new();
        for (name, value) in found.settings {
            let Some(value) = value else { continue };
            let name: Box<[u8]> = name.to_ascii_lowercase().into();
            if is_of_the_transaction(&name) {
                continue;
            }
            customs.add(&name);
            let known = self.label.get(&name);
            // A reset that was rolled back leaves the value; one that worked leaves another, and nothing to carry.
            let reset = (touched.all || touched.reset.contains(&name)) && !touched.set.contains(&name);
            let idle = name.as_ref() == b"role" && value.as_ref() == b"none" && known.is_none();
            if (reset && known != Some(&*value)) || idle || settings.iter().any(|(known, _)| *known == name) {
                continue;
            }
            settings.push((name, value));
        }
        Label::new(settings)
    }

    /// How the use of a server ended, whose transaction is over and audited. Begins anew for the next one.
    pub fn used(&mut self, care: Care, quiet: bool) -> Use {
        let touches = std::mem::take(&mut self.touches);
        let varied = std::mem::take(&mut self.varied);
        self.hints = Hints::default();
        self.sets = false;
        self.does = false;
        self.has_prepared = false;
        let hides = std::mem::take(&mut self.hides);
        if (hides || self.hard == Some(Pin::Code)) && !rule::off(Rule::Incurable) {
            return Use::Incurable;
        }
        let harmless = match care {
            Care::Strict => false,
            Care::Trusting => !touches,
            Care::Preserve | Care::Reject => !touches && (!varied || quiet || rule::off(Rule::QuietDatabase)),
        };
        if harmless { Use::Harmless } else { Use::Unproven }
    }
}

#[cfg(test)]
mod tests;
