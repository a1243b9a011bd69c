#![allow(clippy::unwrap_used)]
use super::*;

const RULES: Rules = Rules { interval: Duration::from_secs(5), timeout: Duration::from_secs(2), failure_threshold: 3 };

/// A clock of whole milliseconds from a fixed start.
struct Clock(Instant);

impl Clock {
    fn at(&self, ms: u64) -> Instant {
        self.0 + Duration::from_millis(ms)
    }
}

fn start() -> (Checks, Clock) {
    let now = Instant::now();
    (Checks::new(now), Clock(now))
}

fn failed() -> Outcome {
    Outcome::Failed("connection refused".into())
}

/// Asks and fails at each of these moments.
fn fail_at(checks: &mut Checks, clock: &Clock, moments: &[u64]) {
    for ms in moments {
        assert_eq!(checks.look(&RULES, None, true, clock.at(*ms)), Step::Ask, "at {ms}");
        checks.ended(&RULES, None, failed(), clock.at(*ms));
    }
}

#[test]
fn asks_at_once_then_every_interval() {
    let (mut checks, clock) = start();
    assert_eq!(checks.verdict(clock.at(0)), (Verdict::Degraded, Some("not checked yet".into())));
    assert!(!checks.usable());
    assert_eq!(checks.look(&RULES, None, true, clock.at(0)), Step::Ask);
    checks.ended(&RULES, None, Outcome::Answered, clock.at(3));
    assert_eq!(checks.verdict(clock.at(3)), (Verdict::Healthy, None));
    assert!(checks.usable());
    assert_eq!(checks.look(&RULES, None, true, clock.at(4)), Step::Wait(clock.at(5_003)));
    assert_eq!(checks.look(&RULES, None, true, clock.at(5_003)), Step::Ask);
}

#[test]
fn one_question_at_a_time() {
    let (mut checks, clock) = start();
    assert_eq!(checks.look(&RULES, None, true, clock.at(0)), Step::Ask);
    assert_eq!(checks.look(&RULES, None, true, clock.at(1_000)), Step::Wait(clock.at(7_000)));
    // It vanished without a word (a panic): that is a failure, and the next look may ask again.
    assert_eq!(checks.look(&RULES, None, true, clock.at(7_000)), Step::Wait(clock.at(12_000)));
    assert_eq!(checks.failures(), 1);
    assert_eq!(checks.look(&RULES, None, true, clock.at(12_000)), Step::Ask);
}

#[test]
fn a_reply_newer_than_the_interval_is_proof_for_free() {
    let (mut checks, clock) = start();
    let heard = Some(clock.at(100));
    assert_eq!(checks.look(&RULES, heard, true, clock.at(1_000)), Step::Proven(clock.at(5_101)));
    assert_eq!(checks.verdict(clock.at(1_000)).0, Verdict::Healthy);
    assert_eq!(checks.proven(), heard);
    // Exactly one interval old still counts, one millisecond more does not.
    assert_eq!(checks.look(&RULES, heard, true, clock.at(5_100)), Step::Wait(clock.at(5_101)));
    assert_eq!(checks.look(&RULES, heard, true, clock.at(5_101)), Step::Ask);
}

#[test]
fn a_reply_ends_a_row_of_failures() {
    let (mut checks, clock) = start();
    fail_at(&mut checks, &clock, &[0, 5_000, 10_000]);
    assert_eq!(checks.verdict(clock.at(10_000)).0, Verdict::Unhealthy);
    assert!(matches!(checks.look(&RULES, Some(clock.at(14_000)), true, clock.at(15_000)), Step::Proven(_)));
    assert_eq!(checks.verdict(clock.at(15_000)), (Verdict::Healthy, None));
}

#[test]
fn the_threshold_of_failures_in_a_row() {
    let (mut checks, clock) = start();
    checks.look(&RULES, None, true, clock.at(0));
    checks.ended(&RULES, None, Outcome::Answered, clock.at(0));
    fail_at(&mut checks, &clock, &[5_000]);
    let (health, reason) = checks.verdict(clock.at(5_000));
    assert_eq!(health, Verdict::Degraded);
    assert_eq!(reason.unwrap(), "the health query failed once: connection refused");
    assert!(checks.usable());
    fail_at(&mut checks, &clock, &[10_000]);
    assert_eq!(checks.verdict(clock.at(10_000)).0, Verdict::Degraded);
    fail_at(&mut checks, &clock, &[15_000]);
    let (health, reason) = checks.verdict(clock.at(15_000));
    assert_eq!(health, Verdict::Unhealthy);
    assert_eq!(reason.unwrap(), "the health query failed 3 times in a row: connection refused");
    assert!(!checks.usable());
    // One answer is enough to be well again, and the row starts over.
    assert_eq!(checks.look(&RULES, None, true, clock.at(20_000)), Step::Ask);
    checks.ended(&RULES, None, Outcome::Answered, clock.at(20_000));
    assert_eq!(checks.verdict(clock.at(20_000)), (Verdict::Healthy, None));
    fail_at(&mut checks, &clock, &[25_000]);
    assert_eq!(checks.failures(), 1);
}

#[test]
fn saturated_and_silent_is_degraded_and_never_asks() {
    let (mut checks, clock) = start();
    checks.look(&RULES, None, true, clock.at(0));
    checks.ended(&RULES, None, Outcome::Answered, clock.at(0));
    // Busy for less than interval + timeout: nothing is wrong yet. It looks again when silence begins to count.
    assert_eq!(checks.look(&RULES, None, false, clock.at(5_000)), Step::Saturated(clock.at(7_001)));
    assert_eq!(checks.verdict(clock.at(5_000)).0, Verdict::Healthy);
    assert_eq!(checks.look(&RULES, None, false, clock.at(7_001)), Step::Saturated(clock.at(12_001)));
    let (health, reason) = checks.verdict(clock.at(7_001));
    assert_eq!(health, Verdict::Degraded);
    assert_eq!(reason.unwrap(), "every connection is busy and no server has answered for 7 s");
    assert!(checks.usable());
    // However long it lasts, it is not unhealthy.
    for ms in (12_001..100_000).step_by(5_000) {
        assert!(matches!(checks.look(&RULES, None, false, clock.at(ms)), Step::Saturated(_)));
        assert_eq!(checks.verdict(clock.at(ms)).0, Verdict::Degraded);
    }
    assert!(matches!(checks.look(&RULES, Some(clock.at(101_000)), false, clock.at(102_001)), Step::Proven(_)));
    assert_eq!(checks.verdict(clock.at(102_001)), (Verdict::Healthy, None));
}

#[test]
fn a_question_that_found_the_pool_full_is_no_failure() {
    let (mut checks, clock) = start();
    assert_eq!(checks.look(&RULES, None, true, clock.at(0)), Step::Ask);
    checks.ended(&RULES, None, Outcome::Full, clock.at(1));
    assert_eq!(checks.failures(), 0);
    assert_eq!(checks.verdict(clock.at(1)).1.unwrap(), "not checked yet");
    assert_eq!(checks.look(&RULES, None, true, clock.at(2)), Step::Wait(clock.at(5_001)));
}

#[test]
fn full_keeps_the_failures_that_were_counted() {
    let (mut checks, clock) = start();
    fail_at(&mut checks, &clock, &[0, 5_000, 10_000]);
    assert!(matches!(checks.look(&RULES, None, false, clock.at(15_000)), Step::Saturated(_)));
    assert_eq!(checks.verdict(clock.at(15_000)).0, Verdict::Unhealthy);
}

#[test]
fn a_late_failure_is_outweighed_by_a_reply_to_a_client() {
    let (mut checks, clock) = start();
    assert_eq!(checks.look(&RULES, None, true, clock.at(0)), Step::Ask);
    checks.ended(&RULES, Some(clock.at(1_500)), failed(), clock.at(2_000));
    assert_eq!(checks.verdict(clock.at(2_000)), (Verdict::Healthy, None));
}

#[test]
fn other_rules_hold_at_once() {
    let (mut checks, clock) = start();
    let lazy = Rules { interval: Duration::from_secs(3_600), ..RULES };
    checks.look(&lazy, None, true, clock.at(0));
    checks.ended(&lazy, None, Outcome::Answered, clock.at(0));
    assert_eq!(checks.look(&lazy, None, true, clock.at(60_000)), Step::Wait(clock.at(3_600_000)));
    assert_eq!(checks.look(&RULES, None, true, clock.at(60_000)), Step::Ask);
    checks.ended(&Rules { failure_threshold: 1, ..RULES }, None, failed(), clock.at(60_000));
    assert_eq!(checks.verdict(clock.at(60_000)).0, Verdict::Unhealthy);
}

#[test]
fn a_threshold_of_zero_is_one() {
    let (mut checks, clock) = start();
    let rules = Rules { failure_threshold: 0, ..RULES };
    checks.look(&rules, None, true, clock.at(0));
    checks.ended(&rules, None, Outcome::Answered, clock.at(0));
    assert_eq!(checks.verdict(clock.at(0)).0, Verdict::Healthy);
}
