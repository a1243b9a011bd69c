//! Whether a server may serve a client: the four states of a session, and the only ways to Proven.
//!
//! The invariant: no byte of a client goes to a server before that server has proved the client's label. What nobody
//! thought of leaves a session Unknown, which costs a scrub and never a leak.

use super::label::Carried;
use super::rule::{self, Rule};

/// Number of a client that never was.
pub const NOBODY: i32 = 0;

/// What is known of the state that a server's session carries.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It carries this label and nothing else.
    Proven(Carried),
    /// Its last client may have left anything in it, beside its label at that time.
    Unknown {
        /// Who that was.
        last: i32,
        /// What its label was when its last transaction ended.
        label: Carried,
    },
    /// Bound state ties it to this client.
    Owned(i32),
    /// It carries what nothing undoes.
    Closing,
}

/// What a client's first message on a server must be preceded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Direct,
    /// The client's label: the session is proven to be as it started.
    Adapt,
    /// A scrub, then the client's label.
    Scrub,
    /// It must not be used, and is to be closed.
    Refused,
}

/// How a client's use of a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Nothing that it ran can have touched the session, but for what is in its label.
    Harmless,
    /// It may have left anything behind.
    Unproven,
    /// It left behind what nothing undoes.
    Incurable,
}

/// One server session's state.
#[derive(Debug, Clone)]
pub struct Proof {
    state: State,
    /// What the present client found was proven, so that a harmless use leaves it proven.
    entered_proven: bool,
}

impl Proof {
    /// A session that has just begun.
    pub fn new(plain: Carried) -> Self {
        Self { state: State::Proven(plain), entered_proven: true }
    }

    /// What must precede the first message of this client.
    pub fn entry(&self, client: i32, label: &Carried) -> Entry {
        match &self.state {
            State::Proven(known) if known == label => Entry::Direct,
            State::Proven(known) if known.is_plain() => Entry::Adapt,
            State::Unknown { last, label: known } if *last == client && known == label => Entry::Direct,
            State::Unknown { .. } if rule::off(Rule::ScrubUnknown) => Entry::Direct,
            State::Proven(_) if rule::off(Rule::ScrubOtherLabel) => Entry::Direct,
            State::Proven(_) | State::Unknown { .. } => Entry::Scrub,
            State::Owned(owner) if *owner == client => Entry::Direct,
            State::Owned(_) | State::Closing => Entry::Refused,
        }
    }

    /// The first bytes of a client are sent, behind what [`Proof::entry`] asked for: from now on only their end proves
    /// anything.
    pub fn sent(&mut self, client: i32, label: &Carried, entry: Entry) {
        self.entered_proven = match entry {
            Entry::Adapt | Entry::Scrub => true,
            Entry::Direct => matches!(self.state, State::Proven(_)),
            Entry::Refused => false,
        };
        if entry == Entry::Refused {
            self.state = State::Closing;
        } else if !matches!(self.state, State::Owned(_)) {
            self.state = State::Unknown { last: client, label: label.clone() };
        }
    }

    /// Bound state ties the session to its client.
    pub fn own(&mut self, client: i32) {
        if self.state != State::Closing {
            self.state = State::Owned(client);
        }
    }

    /// A client lets go of the session, whose transaction has ended; `label` is what it carries now.
    pub fn left(&mut self, client: i32, label: &Carried, used: Use) {
        self.state = match (&self.state, used) {
            (State::Closing, _) | (_, Use::Incurable) => State::Closing,
            (_, Use::Harmless) if self.entered_proven => State::Proven(label.clone()),
            _ => State::Unknown { last: client, label: label.clone() },
        };
    }

    /// `DISCARD ALL` was confirmed on a session that nobody holds.
    pub fn discarded(&mut self, plain: Carried) {
        if self.state != State::Closing {
            self.state = State::Proven(plain);
        }
    }

    /// Nobody may have it any more.
    pub fn close(&mut self) {
        self.state = State::Closing;
    }

    /// Whether nobody may have it any more.
    pub fn is_closing(&self) -> bool {
        self.state == State::Closing
    }
}

#[cfg(test)]
mod tests {
    use super::super::label::Label;
    use super::*;

    fn labels() -> (Carried, Carried) {
        (Carried::default(), Label::new(vec![(b"a".as_slice().into(), b"1".as_slice().into())]).into())
    }

    #[test]
    fn a_new_session_serves_a_plain_client_as_it_is_and_another_adapted() {
        let (plain, other) = labels();
        let proof = Proof::new(plain.clone());
        assert_eq!(proof.entry(1, &plain), Entry::Direct);
        assert_eq!(proof.entry(1, &other), Entry::Adapt);
    }

    #[test]
    fn from_the_first_byte_only_its_client_may_go_on_without_a_scrub() {
        let (plain, other) = labels();
        let mut proof = Proof::new(plain.clone());
        proof.sent(1, &plain, Entry::Direct);
        assert_eq!(proof.entry(1, &plain), Entry::Direct);
        assert_eq!(proof.entry(2, &plain), Entry::Scrub);
        assert_eq!(proof.entry(1, &other), Entry::Scrub, "its label has changed on another server meanwhile");
    }

    #[test]
    fn a_harmless_use_of_a_proven_session_leaves_it_proven() {
        let (plain, other) = labels();
        for entry in [Entry::Direct, Entry::Adapt, Entry::Scrub] {
            let mut proof = Proof::new(plain.clone());
            proof.sent(1, &plain, entry);
            proof.left(1, &other, Use::Harmless);
            assert_eq!(proof.entry(2, &other), Entry::Direct);
            assert_eq!(proof.entry(2, &plain), Entry::Scrub, "never from another label");
        }
    }

    #[test]
    fn a_harmless_use_of_an_unproven_session_proves_nothing() {
        let (plain, _) = labels();
        let mut proof = Proof::new(plain.clone());
        proof.sent(1, &plain, Entry::Direct);
        proof.left(1, &plain, Use::Unproven);
        proof.sent(1, &plain, proof.entry(1, &plain));
        proof.left(1, &plain, Use::Harmless);
        assert_eq!(proof.entry(2, &plain), Entry::Scrub);
        proof.sent(2, &plain, Entry::Scrub);
        proof.left(2, &plain, Use::Harmless);
        assert_eq!(proof.entry(1, &plain), Entry::Direct, "the scrub did");
    }

    #[test]
    fn a_bound_session_is_its_owners() {
        let (plain, _) = labels();
        let mut proof = Proof::new(plain.clone());
        proof.sent(1, &plain, Entry::Direct);
        proof.own(1);
        assert_eq!(proof.entry(1, &plain), Entry::Direct);
        assert_eq!(proof.entry(2, &plain), Entry::Refused);
        proof.left(1, &plain, Use::Harmless);
        assert_eq!(proof.entry(2, &plain), Entry::Direct, "freed: an audit found it clean");
        proof.own(2);
        proof.discarded(plain.clone());
        assert_eq!(proof.entry(3, &plain), Entry::Direct);
    }

    #[test]
    fn nothing_opens_a_closing_session_again() {
        let (plain, _) = labels();
        let mut proof = Proof::new(plain.clone());
        proof.left(1, &plain, Use::Incurable);
        proof.own(1);
        proof.left(1, &plain, Use::Harmless);
        proof.discarded(plain.clone());
        assert!(proof.is_closing());
        assert_eq!(proof.entry(1, &plain), Entry::Refused);
        proof.sent(1, &plain, Entry::Refused);
        assert!(proof.is_closing());
    }
}
