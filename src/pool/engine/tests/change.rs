//! Change while running (4.9): grow, shrink, generations, minimum idle, idle timeout.

use super::*;

fn sized(size: u32, overflow: u32) -> Settings {
    Settings { size, max_overflow: Some(overflow), ..settings() }
}

#[test]
fn growth_serves_the_line_in_the_same_call() {
    let mut b = Bench::new(sized(1, 0));
    b.lend('a');
    b.request('a');
    b.request('a');
    assert_eq!(connects(&b.set(sized(2, 0), Replace::Keep)).len(), 1);
    assert_eq!(
        connects(&b.set(Settings { cap: Some(2), ..sized(20, 0) }, Replace::Keep)).len(),
        0,
        "never above the cap"
    );
    assert_eq!(connects(&b.set(Settings { cap: Some(3), ..sized(20, 0) }, Replace::Keep)).len(), 1);
}

#[test]
fn shrink_closes_the_longest_idle_at_once_and_busy_ones_as_they_come() {
    let mut b = Bench::new(sized(6, 0));
    let out: Vec<_> = (0..6).map(|_| b.lend('a')).collect();
    for conn in &out[..3] {
        b.back(*conn);
    }
    let fx = b.set(sized(4, 0), Replace::Keep);
    assert_eq!(closes(&fx), [(out[0], CloseReason::Shrunk), (out[1], CloseReason::Shrunk)]);
    let fx = b.set(sized(1, 0), Replace::Keep);
    assert_eq!(closes(&fx), [(out[2], CloseReason::Shrunk)]);
    let (waiting, _) = b.ask('a');
    assert_eq!(closes(&b.back(out[3])), [(out[3], CloseReason::Shrunk)], "even if somebody waits");
    assert_eq!(closes(&b.back(out[4])), [(out[4], CloseReason::Shrunk)]);
    assert_eq!(granted(&b.back(out[5]), waiting), Some(out[5]));
    for conn in &out[..4] {
        assert_eq!(connects(&b.ended(*conn)), []);
    }
    assert_eq!(b.physical(), (0, 1, 0, 1));
}

#[test]
fn shrinking_only_what_is_kept_closes_surplus_idle_ones() {
    let mut b = Bench::new(sized(3, 0));
    let out: Vec<_> = (0..3).map(|_| b.lend('a')).collect();
    for conn in &out {
        b.back(*conn);
    }
    assert_eq!(closes(&b.set(sized(2, 1), Replace::Keep)), [(out[0], CloseReason::Shrunk)]);
}

#[test]
fn empty_slots_go_before_connections() {
    let mut b = Bench::new(sized(3, 0));
    let out: Vec<_> = (0..3).map(|_| b.lend('a')).collect();
    b.back(out[0]);
    b.discard(out[1]);
    assert_eq!(closes(&b.set(sized(2, 0), Replace::Keep)), []);
    assert_eq!(b.counters(), (1, 1, 0));
}

#[test]
fn an_opening_that_ends_above_the_limit_is_closed() {
    let mut b = Bench::new(sized(2, 0));
    b.lend('a');
    let (waiting, fx) = b.ask('a');
    let opening = connects(&fx)[0];
    b.set(sized(1, 0), Replace::Keep);
    let fx = b.on(Event::Opened { conn: opening });
    assert_eq!(closes(&fx), [(opening, CloseReason::Shrunk)]);
    assert_eq!(granted(&fx, waiting), None);
}

#[test]
fn a_permit_owed_after_a_shrink_is_not_given_twice() {
    let mut b = Bench::new(sized(2, 0));
    b.lend('a');
    b.lend('a');
    b.set(Settings { cap: Some(0), ..sized(2, 0) }, Replace::Keep);
    b.set(sized(1, 0), Replace::Keep);
    assert_eq!(connects(&b.request('a')), [], "both of two are out");
}

#[test]
fn existing_waiters_keep_their_deadline() {
    let mut b = Bench::new(sized(1, 0));
    b.lend('a');
    let (old, _) = b.ask('a');
    b.set(Settings { acquire: secs(5), ..sized(1, 0) }, Replace::Keep);
    assert_eq!(b.engine.due(), Some(b.now + secs(30)));
    let (new, _) = b.ask('a');
    assert_eq!(b.engine.due(), Some(b.now + secs(5)));
    let fx = b.pass(secs(5));
    assert_eq!(failed(&fx, new), Some(Refusal::Timeout { size: 1, overflow: 0, timeout: secs(5) }));
    assert_eq!(failed(&fx, old), None);
    assert_eq!(b.engine.due(), Some(b.now + secs(25)));
    assert!(failed(&b.pass(secs(25)), old).is_some());
}

#[test]
fn the_shrink_deadline_ends_as_many_as_are_too_many() {
    let shrink = |size| Settings { shrink: Some(secs(10)), ..sized(size, 0) };
    let mut b = Bench::new(shrink(4));
    let out: Vec<_> = (0..4).map(|_| b.lend('a')).collect();
    b.set(shrink(2), Replace::Keep);
    assert_eq!(b.engine.due(), Some(b.now + secs(10)));
    assert!(!b.engine.claim_end(out[0]), "not before the deadline");
    assert_eq!(b.pass(secs(10)), [Effect::EndSurplus]);
    assert!(b.engine.claim_end(out[0]));
    assert!(!b.engine.claim_end(out[0]), "once");
    assert!(b.engine.claim_end(out[1]));
    assert!(!b.engine.claim_end(out[2]), "two are too many, not three");
    assert!(!b.engine.ending());
    b.discard(out[0]);
    assert!(!b.engine.claim_end(out[2]), "the other is still to go");
    b.back(out[1]);
    assert!(!b.engine.claim_end(out[2]));
    assert_eq!(b.counters(), (0, 2, 0));
    b.set(shrink(1), Replace::Keep);
    assert!(!b.engine.ending(), "another shrink, another deadline");
    b.set(shrink(3), Replace::Keep);
    assert_eq!(b.pass(secs(10)), [], "taken back");
}

#[test]
fn another_shrink_begins_its_deadline_anew_and_another_setting_does_not() {
    let shrink = |size| Settings { shrink: Some(secs(10)), ..sized(size, 0) };
    for (then, later) in [(shrink(1), 10), (Settings { acquire: secs(7), ..shrink(2) }, 4), (shrink(3), 4)] {
        let mut b = Bench::new(shrink(4));
        let out: Vec<_> = (0..4).map(|_| b.lend('a')).collect();
        b.set(shrink(2), Replace::Keep);
        assert_eq!(b.pass(secs(6)), []);
        b.set(then, Replace::Keep);
        assert_eq!(b.engine.due(), Some(b.now + secs(later)));
        assert_eq!(b.pass(secs(later) - Duration::from_nanos(1)), []);
        assert_eq!(b.pass(Duration::from_nanos(1)), [Effect::EndSurplus]);
        assert!(b.engine.claim_end(out[0]));
    }
}

#[test]
fn who_was_ended_for_one_shrink_does_not_count_in_the_next() {
    let shrink = |size| Settings { shrink: Some(Duration::ZERO), ..sized(size, 0) };
    let mut b = Bench::new(shrink(3));
    let out: Vec<_> = (0..3).map(|_| b.lend('a')).collect();
    b.set(shrink(2), Replace::Keep);
    assert!(b.engine.claim_end(out[0]));
    b.back(out[0]);
    b.set(shrink(1), Replace::Keep);
    assert!(b.engine.claim_end(out[1]));
    b.discard(out[1]);
    assert_eq!(b.counters(), (0, 1, 0));
}

#[test]
fn a_shrink_deadline_of_zero_is_now_and_none_is_never() {
    let mut b = Bench::new(sized(2, 0));
    let out = [b.lend('a'), b.lend('a')];
    b.set(sized(1, 0), Replace::Keep);
    assert_eq!(b.pass(secs(9999)), []);
    let fx = b.set(Settings { shrink: Some(Duration::ZERO), ..sized(1, 0) }, Replace::Keep);
    assert_eq!(fx, [Effect::EndSurplus]);
    assert!(b.engine.claim_end(out[1]));
}

#[test]
fn replace_now_never_lends_the_old_again() {
    let mut b = Bench::new(sized(3, 0));
    let out = [b.lend('a'), b.lend('a')];
    b.back(out[0]);
    let (waiting, fx) = b.ask('z');
    let old_opening = connects(&fx)[0];
    let fx = b.set(sized(3, 0), Replace::Now);
    assert_eq!(closes(&fx), [(out[0], CloseReason::Replaced)]);
    assert_eq!(connects(&fx), [], "the limit");
    let fx = b.ended(out[0]);
    let new = connects(&fx)[0];
    assert_eq!(closes(&b.on(Event::Opened { conn: old_opening })), [(old_opening, CloseReason::Replaced)]);
    assert_eq!(granted(&b.on(Event::Opened { conn: new }), waiting), Some(new));
    assert_eq!(closes(&b.back(out[1])), [(out[1], CloseReason::Replaced)]);
    b.back(new);
    assert_eq!(b.lend('z'), new);
}

#[test]
fn an_error_from_an_old_target_is_told_to_nobody() {
    let mut b = Bench::new(sized(1, 0));
    let (waiting, fx) = b.ask('a');
    b.set(sized(1, 0), Replace::Now);
    let fx = b.on(Event::OpenFailed { conn: connects(&fx)[0] });
    assert_eq!(failed(&fx, waiting), None);
    assert_eq!(connects(&fx).len(), 1);
}

#[test]
fn replace_within_spreads_over_its_window() {
    let mut b = Bench::new(sized(100, 0));
    let out: Vec<_> = (0..100).map(|_| b.lend('a')).collect();
    for conn in &out[..50] {
        b.back(*conn);
    }
    assert_eq!(b.set(sized(100, 0), Replace::Within(secs(100))), []);
    let fx = b.pass(secs(50));
    let half = closes(&fx).len();
    assert!((10..40).contains(&half), "{half} of 50 idle ones in the first half");
    assert!(b.engine.due().is_some_and(|due| due > b.now && due <= b.now + secs(50)));
    b.pass(secs(50));
    assert_eq!(b.physical().0, 0);
    for conn in &out[50..] {
        assert_eq!(closes(&b.back(*conn)), [(*conn, CloseReason::Replaced)]);
    }
}

#[test]
fn an_old_one_given_back_before_its_moment_is_closed_at_it() {
    let mut b = Bench::new(sized(1, 0));
    let conn = b.lend('a');
    b.set(sized(1, 0), Replace::Within(secs(100)));
    let at = b.engine.server(conn).unwrap().retire_at.unwrap();
    assert!(at > b.now);
    assert_eq!(b.back(conn), []);
    assert_eq!(b.engine.due(), Some(at));
    b.set(sized(1, 0), Replace::Within(secs(900)));
    assert_eq!(b.engine.server(conn).unwrap().retire_at, Some(at), "a later window doesn't put it off");
    b.now = at;
    let fx = b.request('a');
    assert_eq!(closes(&fx), [(conn, CloseReason::Replaced)], "nor is it lent at that moment");
}

#[test]
fn min_idle_is_kept_ahead_of_need_up_to_size() {
    let min = |min_idle| Settings { min_idle, ..sized(3, 2) };
    let mut b = Bench::new(min(0));
    let fx = b.set(min(2), Replace::Keep);
    assert_eq!(connects(&fx).len(), 2);
    assert!(fx.iter().all(|e| matches!(e, Effect::Connect { key: 'a', .. })), "the default key");
    for conn in connects(&fx) {
        assert_eq!(b.on(Event::Opened { conn }), []);
    }
    let (_, fx) = b.ask('a');
    assert_eq!(connects(&fx).len(), 1, "one lent, one more opened");
    b.on(Event::Opened { conn: connects(&fx)[0] });
    let (_, fx) = b.ask('a');
    assert_eq!(connects(&fx).len(), 0, "three are there: size");
    let fx = b.request('a');
    assert_eq!(connects(&fx).len(), 0);
}

#[test]
fn min_idle_waits_longer_with_each_failure() {
    let mut b = Bench::new(sized(3, 0));
    let mut fx = b.set(Settings { min_idle: 1, ..sized(3, 0) }, Replace::Keep);
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        let conn = connects(&fx)[0];
        assert_eq!(b.on(Event::OpenFailed { conn }), []);
        assert_eq!(b.engine.due(), Some(b.now + secs(pause)));
        assert_eq!(b.pass(secs(pause) - Duration::from_nanos(1)), []);
        assert_eq!(b.engine.due(), Some(b.now + Duration::from_nanos(1)));
        fx = b.pass(Duration::from_nanos(1));
    }
    let conn = connects(&fx)[0];
    b.on(Event::Opened { conn });
    let fx = b.on(Event::Unfit { conn, request: None, reason: CloseReason::Disconnected, invalidate: false });
    let conn = connects(&fx)[0];
    b.on(Event::OpenFailed { conn });
    assert_eq!(b.engine.due(), Some(b.now + secs(1)), "a success begins anew");
}

#[test]
fn idle_timeout_closes_the_longest_idle_above_min_idle() {
    let mut b = Bench::new(Settings { idle_timeout: Some(secs(60)), min_idle: 1, ..sized(3, 0) });
    let first = connects(&b.on(Event::Tick))[0];
    b.on(Event::Opened { conn: first });
    let mut fx = b.request('a');
    let mut out = vec![first];
    for _ in 0..2 {
        // One is opened ahead of each request, up to size.
        let conn = connects(&fx)[0];
        b.on(Event::Opened { conn });
        out.push(conn);
        fx = b.request('a');
    }
    assert_eq!((connects(&fx).len(), b.counters()), (0, (0, 3, 0)));
    b.back(out[0]);
    b.now += secs(10);
    b.back(out[1]);
    b.now += secs(10);
    b.back(out[2]);
    assert_eq!(b.engine.due(), Some(b.now + secs(40)));
    assert_eq!(b.pass(secs(39)), []);
    assert_eq!(closes(&b.pass(secs(1))), [(out[0], CloseReason::IdleTimeout)]);
    assert_eq!(b.counters(), (2, 0, -1), "its slot goes with it");
    assert_eq!(closes(&b.pass(secs(10))), [(out[1], CloseReason::IdleTimeout)]);
    assert_eq!(b.pass(secs(999)), [], "the minimum stays");
    assert_eq!(b.engine.due(), None);
}

#[test]
fn a_probe_changes_neither_the_order_nor_the_minimum_nor_the_idle_time() {
    let mut b = Bench::new(Settings { idle_timeout: Some(secs(60)), min_idle: 2, ..sized(3, 0) });
    for conn in connects(&b.on(Event::Tick)) {
        b.on(Event::Opened { conn });
    }
    let order: Vec<_> = b.engine.idle().collect();
    assert_eq!(order.len(), 2);
    b.now += secs(59);
    let request = RequestId(77);
    let fx = b.on(Event::Probe { request, key: 'z' });
    let conn = granted(&fx, request).unwrap();
    assert_eq!(connects(&fx), [], "the minimum is still there");
    assert_eq!(b.back(conn), []);
    assert_eq!(b.engine.idle().collect::<Vec<_>>(), order);
    b.set(Settings { idle_timeout: Some(secs(60)), ..sized(3, 0) }, Replace::Keep);
    assert_eq!(closes(&b.pass(secs(1))).len(), 2, "both were idle all the time");
}
