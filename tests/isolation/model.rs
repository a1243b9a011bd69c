//! What a client's session would show on a connection of its own.

use std::collections::{BTreeMap, BTreeSet};

/// Names of custom settings; the last is set at start-up only, by some clients.
pub const CUSTOM: [&str; 5] = ["app.tag", "app.tenant_id", "app.who", "deep.er.name", "app.boot"];

/// Where a client's session begins: what its startup parameters say.
#[derive(Debug, Clone, Default)]
pub struct Startup {
    /// Parameters of the startup packet.
    pub parameters: Vec<(String, String)>,
    /// What they mean for settings: name → value as PostgreSQL shows it.
    pub settings: BTreeMap<String, String>,
}

/// One custom setting: never touched, or with a value ('' after a RESET).
pub type Custom = Option<String>;

/// What a transaction's end can take back.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Settings that differ from where the session began.
    pub settings: BTreeMap<String, String>,
    /// Those that end with the transaction, before `settings`.
    pub local: BTreeMap<String, String>,
    /// Custom settings that were touched.
    pub custom: BTreeMap<&'static str, Custom>,
    /// The same for the transaction only.
    pub custom_local: BTreeMap<&'static str, String>,
    /// SET ROLE.
    pub role: Option<String>,
    /// SET SESSION AUTHORIZATION.
    pub authorization: Option<String>,
    /// The row in the temporary table that everybody calls `scratch`.
    pub scratch: Option<String>,
    /// Other temporary objects, as the probe names them.
    pub temporary: BTreeSet<String>,
    /// Channels listened to.
    pub channels: BTreeSet<String>,
    /// Holdable cursors and what they return.
    pub cursors: BTreeMap<String, String>,
}

/// A statement prepared through the protocol.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What it does: which answer is right.
    pub kind: Kind,
    /// What it returns where that is fixed.
    pub text: String,
    /// Time zones and date styles that its literals may have been read under.
    pub zones: BTreeSet<String>,
    /// Date styles likewise.
    pub styles: BTreeSet<String>,
}

/// Kinds of prepared statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Returns its own text and the parameter.
    Tagged,
    /// The same text for all clients: returns the parameter twice.
    Shared,
    /// The epoch of a literal, folded under the time zone of the moment.
    Zone,
    /// Whether '02/01/2020' is the second of January.
    Style,
    /// The `place` that the search_path leads to.
    Path,
    /// What the client's own settings say.
    Settings,
}

/// A client's session.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Where it began.
    pub startup: Startup,
    /// What a ROLLBACK can take back.
    pub now: State,
    /// The state at BEGIN, while a transaction is open.
    pub saved: Option<Box<State>>,
    /// Every value that a setting has had in this session.
    pub past: BTreeMap<String, BTreeSet<String>>,
    /// Session-level advisory locks: (first key, second key).
    pub locks: BTreeSet<(u32, u32)>,
    /// Statements prepared in SQL and what they return.
    pub sql_prepared: BTreeMap<String, String>,
    /// Statements prepared through the protocol, by name.
    pub prepared: BTreeMap<String, Prepared>,
    /// Last values of sequences.
    pub sequences: BTreeMap<&'static str, i64>,
    /// The last value of all.
    pub last_value: Option<i64>,
    /// The series that setseed() began, and how many were drawn.
    pub seed: Option<(usize, usize)>,
    /// Whether a connection of dblink is open.
    pub dblink: bool,
    /// Time zones that this session has had.
    pub zones: BTreeSet<String>,
    /// Date styles that this session has had.
    pub styles: BTreeSet<String>,
    /// What was last changed by something that the text does not show.
    pub hidden: BTreeSet<String>,
}

impl Model {
    /// A new session's.
    pub fn new(startup: Startup, zone: &str, style: &str) -> Self {
        let mut model = Self { startup, ..Self::default() };
        let zone = model.startup.settings.get("TimeZone").map_or(zone, String::as_str).to_owned();
        let style = model.startup.settings.get("DateStyle").map_or(style, String::as_str).to_owned();
        model.zones.insert(zone);
        model.styles.insert(style);
        model
    }

    /// What a setting shows now, if it is not what the session began with.
    pub fn setting(&self, name: &str) -> Option<&String> {
        self.now.local.get(name).or_else(|| self.now.settings.get(name))
    }

    /// What a setting shows now; `default` is the server's own.
    pub fn shown<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        let began = self.startup.settings.get(name).map_or(default, String::as_str);
        self.setting(name).map_or(began, String::as_str)
    }

    /// SET or set_config() for the session.
    pub fn set(&mut self, name: &str, value: &str) {
        self.remember(name, value);
        self.now.local.remove(name);
        if self.startup.settings.get(name).is_some_and(|began| began == value) {
            self.now.settings.remove(name);
        } else {
            self.now.settings.insert(name.to_owned(), value.to_owned());
        }
    }

    /// SET LOCAL.
    pub fn set_local(&mut self, name: &str, value: &str) {
        self.remember(name, value);
        self.now.local.insert(name.to_owned(), value.to_owned());
    }

    /// RESET.
    pub fn reset(&mut self, name: &str, default: &str) {
        self.now.local.remove(name);
        self.now.settings.remove(name);
        let began = self.startup.settings.get(name).cloned().unwrap_or_else(|| default.to_owned());
        self.remember(name, &began);
        self.hidden.remove(name);
    }

    /// RESET ALL; `defaults` are the server's own time zone and date style.
    pub fn reset_all(&mut self) {
        self.now.settings.clear();
        self.now.local.clear();
        let names: Vec<_> = self.now.custom.keys().copied().collect();
        for name in names {
            self.now.custom.insert(name, Some(String::new()));
        }
        self.now.custom_local.clear();
    }

    /// DISCARD ALL.
    pub fn discard_all(&mut self) {
        self.reset_all();
        let custom = std::mem::take(&mut self.now.custom);
        self.now = State { custom, ..State::default() };
        self.locks.clear();
        self.sql_prepared.clear();
        self.prepared.clear();
        self.sequences.clear();
        self.last_value = None;
        self.hidden.clear();
    }

    fn remember(&mut self, name: &str, value: &str) {
        self.past.entry(name.to_owned()).or_default().insert(value.to_owned());
        let (seen, folded) = match name {
            "TimeZone" => (&mut self.zones, true),
            "DateStyle" => (&mut self.styles, false),
            _ => return,
        };
        seen.insert(value.to_owned());
        // Whatever makes a plan again reads its literals under what holds then.
        for prepared in self.prepared.values_mut() {
            if folded { &mut prepared.zones } else { &mut prepared.styles }.insert(value.to_owned());
        }
    }

    /// Sets a custom setting.
    pub fn set_custom(&mut self, name: &'static str, value: &str) {
        self.past.entry(name.to_owned()).or_default().insert(value.to_owned());
        self.now.custom_local.remove(name);
        self.now.custom.insert(name, Some(value.to_owned()));
    }

    /// Sets a custom setting for the transaction.
    pub fn set_custom_local(&mut self, name: &'static str, value: &str) {
        self.past.entry(name.to_owned()).or_default().insert(value.to_owned());
        self.now.custom_local.insert(name, value.to_owned());
    }

    /// What a custom setting shows now.
    pub fn custom(&self, name: &'static str) -> Custom {
        let began = self.startup.settings.get(name).cloned();
        let local = self.now.custom_local.get(name).cloned();
        local.or_else(|| self.now.custom.get(name).cloned().flatten()).or(began)
    }

    /// Whether this session has ever touched a custom setting: it then reads '' and not NULL.
    pub fn touched(&self, name: &str) -> bool {
        self.past.contains_key(name)
    }

    /// BEGIN.
    pub fn begin(&mut self) {
        self.saved = Some(Box::new(self.now.clone()));
    }

    /// COMMIT.
    pub fn commit(&mut self) {
        self.saved = None;
        self.now.local.clear();
        for (name, _) in std::mem::take(&mut self.now.custom_local) {
            self.now.custom.entry(name).or_insert_with(|| Some(String::new()));
        }
    }

    /// ROLLBACK.
    pub fn rollback(&mut self) {
        let touched: Vec<_> = self.now.custom.keys().chain(self.now.custom_local.keys()).copied().collect();
        if let Some(saved) = self.saved.take() {
            self.now = *saved;
        }
        for name in touched {
            self.now.custom.entry(name).or_insert_with(|| Some(String::new()));
        }
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.saved.is_some()
    }

    /// Whether another role than the one that logged in is at work.
    pub fn is_other_role(&self) -> bool {
        self.now.role.is_some() || self.now.authorization.is_some()
    }
}
