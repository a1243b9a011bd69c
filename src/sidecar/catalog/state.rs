//! What the query path knows of the verdict: one number.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};

/// What the number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Not read yet, or something was defined since.
    Nothing,
    /// Read: quiet.
    Quiet,
    /// Quiet when it was last read, which is too long ago.
    Stale,
    /// Read: noisy.
    Noisy,
}

const KNOWN: u64 = 0b11;
const NOTHING: u64 = 0;
const QUIET: u64 = 1;
const STALE: u64 = 2;
const NOISY: u64 = 3;
/// One transaction that has defined something and is still open.
const OPEN: u64 = 1 << 2;
const OPENS: u64 = ((1 << 22) - 1) << 2;
/// One definition: 2⁴⁰ of them, a thousand a second for 34 years.
const EPOCH: u64 = 1 << 24;

/// The verdict, how many transactions that define something are open, and how many definitions there were.
#[derive(Debug, Default)]
pub struct State(AtomicU64);

/// The state at the beginning of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun(u64);

/// The state as it was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen(u64);

impl State {
    /// The state, to be held against a later one.
    #[inline]
    pub fn see(&self) -> Seen {
        Seen(self.0.load(Acquire))
    }

    /// Whether it was not noisy then, and nothing has been defined since.
    #[inline]
    pub fn was_as_quiet(&self, then: Seen) -> bool {
        then.0 & KNOWN != NOISY && (self.0.load(Acquire) ^ then.0) & !KNOWN == 0
    }

    /// What is known now.
    #[inline]
    pub fn known(&self) -> Known {
        match self.0.load(Acquire) & KNOWN {
            QUIET => Known::Quiet,
            STALE => Known::Stale,
            NOISY => Known::Noisy,
            _ => Known::Nothing,
        }
    }

    /// Whether no transaction is open that has defined something.
    pub fn is_settled(&self) -> bool {
        self.0.load(Acquire) & OPENS == 0
    }

    /// Something was defined: nothing is known any more.
    pub fn defined(&self) {
        self.change(|state| state);
    }

    /// Something was defined in a transaction that goes on: nothing is known before it has ended.
    pub fn opened(&self) {
        self.change(|state| if state & OPENS == OPENS { state } else { state + OPEN });
    }

    /// Such a transaction has ended.
    pub fn ended(&self) {
        self.change(|state| if state & OPENS == 0 { state } else { state - OPEN });
    }

    fn change(&self, change: impl Fn(u64) -> u64) {
        let change = |state: u64| Some(change(state & !KNOWN).wrapping_add(EPOCH) | NOTHING);
        // It never says no.
        let _ = self.0.fetch_update(AcqRel, Acquire, change);
    }

    /// A reading begins.
    pub fn begin(&self) -> Begun {
        Begun(self.0.load(Acquire) & !KNOWN)
    }

    /// A reading has ended: it is believed if nothing was defined since it began, and nothing is being defined. It says
    /// nothing of the time before: what it did not find may have been there.
    pub fn publish(&self, begun: Begun, quiet: bool) -> bool {
        self.believe(begun, begun.0.wrapping_add(EPOCH) | if quiet { QUIET } else { NOISY })
    }

    /// Nothing has changed since the last reading: that one is believed, likewise.
    pub fn confirm(&self, begun: Begun, quiet: bool) -> bool {
        self.believe(begun, begun.0 | if quiet { QUIET } else { NOISY })
    }

    fn believe(&self, begun: Begun, what: u64) -> bool {
        let believed = |state: u64| (state & !KNOWN == begun.0 && state & OPENS == 0).then_some(what);
        self.0.fetch_update(AcqRel, Acquire, believed).is_ok()
    }

    /// It was not looked at for long.
    pub fn grow_stale(&self) {
        let _ =
            self.0.fetch_update(AcqRel, Acquire, |state| (state & KNOWN == QUIET).then_some(state & !KNOWN | STALE));
    }

    /// Somebody asked while it was stale: it has to be looked at. True for the first to ask.
    pub fn freshen(&self) -> bool {
        let ask = |state: u64| (state & KNOWN == STALE).then_some(state & !KNOWN | NOTHING);
        self.0.fetch_update(AcqRel, Acquire, ask).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> State {
        let state = State::default();
        assert!(state.publish(state.begin(), true));
        state
    }

    #[test]
    fn nothing_is_known_at_first() {
        let state = State::default();
        assert_eq!(state.known(), Known::Nothing);
        assert!(state.publish(state.begin(), false));
        assert_eq!(state.known(), Known::Noisy);
        assert_eq!(quiet().known(), Known::Quiet);
    }

    #[test]
    fn a_reading_says_nothing_of_the_time_before() {
        let state = State::default();
        let first = state.see();
        assert!(state.publish(state.begin(), true) && !state.was_as_quiet(first));
        let (then, begun) = (state.see(), state.begin());
        state.grow_stale();
        assert!(state.confirm(begun, true) && state.was_as_quiet(then), "the same as before");
        assert!(state.publish(state.begin(), true) && !state.was_as_quiet(then), "something was changed elsewhere");
    }

    #[test]
    fn a_definition_counts_at_once_and_until_a_later_reading() {
        let state = quiet();
        let before = state.begin();
        state.defined();
        assert_eq!(state.known(), Known::Nothing);
        assert!(!state.publish(before, true), "that reading began before the definition");
        assert!(!state.confirm(before, true));
        assert_eq!(state.known(), Known::Nothing);
        assert!(state.publish(state.begin(), true));
        assert_eq!(state.known(), Known::Quiet);
    }

    #[test]
    fn an_open_definition_keeps_it_unknown() {
        let state = quiet();
        state.opened();
        state.opened();
        let during = state.begin();
        assert!(!state.is_settled() && !state.publish(during, true), "not visible to the reading yet");
        state.ended();
        assert!(!state.is_settled() && !state.publish(state.begin(), true), "there are two");
        state.ended();
        assert!(state.is_settled() && !state.publish(during, true));
        assert!(state.publish(state.begin(), true));
        state.ended();
        assert!(state.is_settled(), "never below none");
    }

    #[test]
    fn a_verdict_grows_stale_and_is_asked_for_once() {
        let state = quiet();
        assert!(!state.freshen());
        let before = state.begin();
        state.grow_stale();
        assert_eq!(state.known(), Known::Stale);
        assert!(state.freshen() && !state.freshen());
        assert_eq!(state.known(), Known::Nothing);
        assert!(state.confirm(before, true), "nothing was defined");
        let noisy = State::default();
        noisy.publish(noisy.begin(), false);
        noisy.grow_stale();
        assert_eq!(noisy.known(), Known::Noisy);
    }

    #[test]
    fn the_count_of_open_ones_does_not_run_over() {
        let state = State(AtomicU64::new(OPENS));
        state.opened();
        assert!(!state.is_settled());
        assert_eq!(state.0.load(Acquire) & OPENS, OPENS);
    }
}
