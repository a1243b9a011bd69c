//! When to try again: exponential, with full jitter, so that a fleet that lost its operator comes back spread out.

use std::time::Duration;

/// Most of the first pause.
const START: Duration = Duration::from_millis(100);
/// Most of any pause.
const MOST: Duration = Duration::from_secs(15);
/// Most of any pause where another replica is expected to answer.
const QUICK: Duration = Duration::from_secs(1);
/// Doubled so often, the first pause is longer than any.
const ENOUGH: u32 = 10;

/// How soon to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Ever more slowly.
    Usual,
    /// Another replica is expected to answer.
    Quick,
}

/// Counts what went wrong in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next try; `random` is at least 0 and less than 1.
    pub fn next(&mut self, pace: Pace, random: f64) -> Duration {
        let grown = START * 2_u32.pow(self.failures.min(ENOUGH));
        self.failures = self.failures.saturating_add(1);
        let most = if pace == Pace::Quick { QUICK } else { MOST };
        grown.min(most).mul_f64(random.clamp(0.0, 1.0))
    }

    /// It went well.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_most_and_start_again() {
        let mut backoff = Backoff::default();
        let millis = |backoff: &mut Backoff, pace| backoff.next(pace, 1.0).as_millis();
        let grown: Vec<_> = (0..9).map(|_| millis(&mut backoff, Pace::Usual)).collect();
        assert_eq!(grown, [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 15_000]);
        assert_eq!(millis(&mut backoff, Pace::Quick), 1_000);
        (0..100).for_each(|_| assert_eq!(millis(&mut backoff, Pace::Usual), 15_000));
        backoff.reset();
        assert_eq!(millis(&mut backoff, Pace::Quick), 100);
    }

    #[test]
    fn jitter_is_full() {
        let pause = |random| Backoff { failures: 20 }.next(Pace::Usual, random);
        assert_eq!(pause(0.0), Duration::ZERO);
        assert_eq!(pause(0.5), MOST / 2);
        assert_eq!(pause(f64::NAN.max(2.0)), MOST);
    }
}
