#![allow(clippy::unwrap_used)]
use super::*;

fn read(verdict: Verdict) -> Found {
    Found::Read { verdict, cure: Cure::default(), pulse: b"1".to_vec() }
}

/// A reading that begins now.
fn now(catalog: &Catalog) -> (Begun, u64) {
    (catalog.state.begin(), catalog.code.load(Acquire))
}

fn quiet() -> Arc<Catalog> {
    let catalog = Arc::new(Catalog::default());
    assert!(!catalog.is_quiet(), "nothing is known");
    catalog.keep("x", now(&catalog), read(Verdict::Quiet), Duration::from_millis(12));
    catalog
}

#[test]
fn a_definition_ends_quiet_at_once_and_a_later_reading_brings_it_back() {
    let catalog = quiet();
    assert!(catalog.is_quiet());
    let before = now(&catalog);
    catalog.ddl_seen();
    assert!(!catalog.is_quiet());
    assert_eq!(*catalog.verdict(), Verdict::Quiet, "the last reading's");
    catalog.keep("x", before, Found::Same, Duration::ZERO);
    assert!(!catalog.is_quiet(), "that one began before");
    catalog.keep("x", now(&catalog), Found::Same, Duration::ZERO);
    assert!(catalog.is_quiet());
}

#[test]
fn a_failed_look_leaves_what_is_known() {
    let catalog = quiet();
    let failed = || Found::Failed("permission denied".into());
    assert_eq!(catalog.keep("x", now(&catalog), failed(), Duration::ZERO), Outcome::Failed);
    assert!(catalog.is_quiet());
    let status = catalog.status(Instant::now());
    assert_eq!((status.verdict.as_str(), status.failure.as_deref()), ("quiet", Some("permission denied")));
    catalog.ddl_seen();
    catalog.keep("x", now(&catalog), failed(), Duration::ZERO);
    assert!(!catalog.is_quiet());
}

#[test]
fn what_was_known_of_an_earlier_target_counts_for_a_while() {
    let catalog = quiet();
    let (before, since) = (now(&catalog), catalog.sight());
    let next = catalog.succeeded();
    assert!(catalog.retired.is_cancelled() && !next.retired.is_cancelled());
    assert!(catalog.is_quiet() && !next.is_quiet());
    catalog.expire();
    assert!(!catalog.is_quiet() && !catalog.was_quiet(since));
    assert_eq!(catalog.remedy(since), Remedy::Unknown);
    catalog.keep("x", before, read(Verdict::Quiet), Duration::ZERO);
    assert!(!catalog.is_quiet(), "that one began before");
}

#[test]
fn a_witness_knows_transactions() {
    let catalog = quiet();
    let mut witness = Witness::new(Arc::clone(&catalog));
    witness.completed(b"SELECT 1\0");
    witness.ended();
    assert!(catalog.is_quiet());
    witness.completed(b"CREATE FUNCTION\0");
    witness.completed(b"CREATE TABLE\0");
    assert!(!catalog.is_quiet());
    catalog.keep("x", now(&catalog), Found::Same, Duration::ZERO);
    assert!(!catalog.is_quiet(), "not committed: no reading sees it");
    witness.ended();
    assert!(!catalog.is_quiet());
    catalog.keep("x", now(&catalog), read(Verdict::Quiet), Duration::ZERO);
    assert!(catalog.is_quiet());
    witness.completed(b"DROP TABLE\0");
    drop(witness);
    assert!(catalog.state.is_settled(), "a server that is gone has no transaction");
}

#[test]
fn what_is_noisy_is_told() {
    let catalog = Catalog::default();
    let verdict = Verdict::Noisy { names: vec!["function f: EXECUTE".into()], more: 3, login_trigger: true };
    catalog.keep("x", now(&catalog), read(verdict), Duration::from_micros(12_345));
    let status = catalog.status(Instant::now());
    assert!(!catalog.is_quiet() && !status.quiet && status.login_trigger);
    assert_eq!((status.verdict.as_str(), status.more, status.milliseconds), ("noisy", 3, Some(12.3)));
    assert_eq!(status.names, ["function f: EXECUTE"]);
}

#[test]
fn quiet_grows_stale_and_the_first_to_ask_wakes_the_watch() {
    let catalog = quiet();
    catalog.state.grow_stale();
    assert_eq!(catalog.status(Instant::now()).verdict, "quiet");
    assert!(!catalog.is_quiet() && !catalog.is_quiet());
    assert_eq!(catalog.state.known(), Known::Nothing);
    let mut woken = std::pin::pin!(catalog.wake.notified());
    assert!(woken.as_mut().enable());
}

#[test]
fn what_a_scrub_undoes_is_known_from_a_reading_until_a_routine_is_defined() {
    let catalog = Arc::new(Catalog::default());
    let found = |incurable| Found::Read {
        verdict: Verdict::Quiet,
        cure: Cure { incurable, ..Cure::default() },
        pulse: b"1".to_vec(),
    };
    let now_known = |catalog: &Catalog| catalog.remedy(catalog.sight());
    let first = catalog.sight();
    assert_eq!(now_known(&catalog), Remedy::Unknown);
    catalog.keep("x", now(&catalog), found(false), Duration::ZERO);
    assert_eq!(now_known(&catalog), Remedy::Scrub);
    assert_eq!(catalog.remedy(first), Remedy::Unknown, "a routine may have been there, and gone");
    let before = now(&catalog);
    let mut witness = Witness::new(Arc::clone(&catalog));
    witness.completed(b"CREATE TABLE\0");
    assert_eq!(now_known(&catalog), Remedy::Scrub);
    catalog.keep("x", now(&catalog), found(false), Duration::ZERO);
    assert_eq!(now_known(&catalog), Remedy::Scrub, "also while tables are being defined");
    witness.ended();
    let since = catalog.sight();
    witness.completed(b"CREATE FUNCTION\0");
    assert_eq!(now_known(&catalog), Remedy::Unknown);
    catalog.keep("x", before, found(false), Duration::ZERO);
    assert_eq!(now_known(&catalog), Remedy::Unknown, "that one began before");
    catalog.keep("x", now(&catalog), Found::Same, Duration::ZERO);
    assert_eq!(now_known(&catalog), Remedy::Scrub, "nobody else can run it yet");
    witness.ended();
    assert_eq!(now_known(&catalog), Remedy::Unknown);
    catalog.keep("x", now(&catalog), found(true), Duration::ZERO);
    assert_eq!(now_known(&catalog), Remedy::Close);
    witness.completed(b"DROP FUNCTION\0");
    witness.ended();
    catalog.keep("x", now(&catalog), found(false), Duration::ZERO);
    assert_eq!(now_known(&catalog), Remedy::Scrub);
    assert!(catalog.is_quiet() && !catalog.was_quiet(since), "it was there meanwhile");
    assert!(catalog.was_quiet(catalog.sight()) && catalog.remedy(since) == Remedy::Unknown);
    catalog.expire();
    assert_eq!(now_known(&catalog), Remedy::Unknown);
    catalog.keep("x", now(&catalog), Found::Failed("no right".into()), Duration::ZERO);
    assert_eq!(now_known(&catalog), Remedy::Unknown, "once may be an accident");
    catalog.keep("x", now(&catalog), Found::Failed("no right".into()), Duration::ZERO);
    assert_eq!(now_known(&catalog), Remedy::Scrub, "what cannot be read is pooled all the same");
}

#[test]
fn a_routine_that_goes_elsewhere_leaves_what_it_did() {
    let catalog = Catalog::default();
    let found = |incurable| Found::Read {
        verdict: Verdict::Quiet,
        cure: Cure { incurable, ..Cure::default() },
        pulse: b"1".to_vec(),
    };
    catalog.keep("x", now(&catalog), found(false), Duration::ZERO);
    let before = catalog.sight();
    catalog.keep("x", now(&catalog), found(true), Duration::ZERO);
    let during = catalog.sight();
    assert_eq!((catalog.remedy(before), catalog.remedy(during)), (Remedy::Close, Remedy::Close));
    catalog.keep("x", now(&catalog), found(false), Duration::ZERO);
    assert_eq!((catalog.remedy(before), catalog.remedy(during)), (Remedy::Unknown, Remedy::Unknown));
    let after = catalog.sight();
    catalog.keep("x", now(&catalog), found(false), Duration::ZERO);
    assert_eq!(catalog.remedy(after), Remedy::Scrub);
}

fn read_with(incurable: bool, pulse: &[u8]) -> Found {
    let cure = Cure { incurable, ..Cure::default() };
    Found::Read { verdict: Verdict::Quiet, cure, pulse: pulse.to_vec() }
}

#[test]
fn a_definition_through_one_target_counts_for_the_others() {
    let first = Catalog::first();
    let second = first.succeeded();
    let both = [&first, &second];
    for (by, other) in [(0, 1), (1, 0)] {
        let mut witness = Witness::new(Arc::clone(both[by]));
        let read_both = || both.map(|catalog| catalog.keep("x", now(catalog), read_with(false, b"1"), Duration::ZERO));
        read_both();
        assert!(both.iter().all(|catalog| catalog.is_quiet()));
        witness.completed(b"CREATE TABLE\0");
        assert!(both.iter().all(|catalog| !catalog.is_quiet()));
        read_both();
        assert!(both[other].is_quiet(), "not committed");
        witness.ended();
        assert!(!both[other].is_quiet());
        read_both();
        witness.completed(b"ALTER ROUTINE\0");
        let unknown = |catalog: &Catalog| catalog.remedy(catalog.sight()) == Remedy::Unknown;
        assert!(both.iter().all(|catalog| unknown(catalog)));
        read_both();
        witness.ended();
        assert!(both.iter().all(|catalog| unknown(catalog)));
    }
}

#[test]
fn what_a_scrub_undoes_is_to_be_found_out_again_after_a_time_without_clients() {
    let catalog = Catalog::default();
    catalog.keep("x", now(&catalog), read_with(false, b"1"), Duration::ZERO);
    catalog.grow_stale();
    let since = catalog.sight();
    assert_eq!(catalog.remedy(since), Remedy::Unknown);
    catalog.keep("x", now(&catalog), Found::Same, Duration::ZERO);
    assert_eq!(catalog.remedy(since), Remedy::Scrub, "nothing had changed");
    catalog.grow_stale();
    let since = catalog.sight();
    catalog.keep("x", now(&catalog), read_with(false, b"2"), Duration::ZERO);
    assert_eq!(catalog.remedy(since), Remedy::Unknown, "something had");
    assert_eq!(catalog.remedy(catalog.sight()), Remedy::Scrub);
    catalog.grow_stale();
    let since = catalog.sight();
    catalog.keep("x", now(&catalog), read_with(true, b"3"), Duration::ZERO);
    assert_eq!(catalog.remedy(since), Remedy::Close);
}

#[test]
fn a_broken_connection_says_nothing_of_the_catalog() {
    let catalog = Catalog::default();
    let lost = || Found::Lost("connection reset".into());
    let failed = || Found::Failed("no right".into());
    for found in [lost(), lost(), failed(), lost()] {
        assert_eq!(catalog.keep("x", now(&catalog), found, Duration::ZERO), Outcome::Failed);
        assert_eq!(catalog.remedy(catalog.sight()), Remedy::Unknown);
    }
    assert_eq!(catalog.status(Instant::now()).failure.as_deref(), Some("connection reset"));
    catalog.keep("x", now(&catalog), failed(), Duration::ZERO);
    assert_eq!(catalog.remedy(catalog.sight()), Remedy::Scrub, "refused twice");
    catalog.keep("x", now(&catalog), read_with(false, b"1"), Duration::ZERO);
    catalog.expire();
    catalog.keep("x", now(&catalog), failed(), Duration::ZERO);
    assert_eq!(catalog.remedy(catalog.sight()), Remedy::Unknown, "counted anew after an answer");
}
