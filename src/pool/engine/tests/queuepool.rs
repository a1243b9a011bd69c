//! What SQLAlchemy's QueuePool does (4.1 to 4.6).

use super::*;

#[test]
fn the_counters_of_the_measured_table() {
    let mut b = Bench::new(settings());
    assert_eq!(b.counters(), (0, 0, -2));
    let one = b.lend('a');
    assert_eq!(b.counters(), (0, 1, -1));
    let two = b.lend('a');
    assert_eq!(b.counters(), (0, 2, 0));
    let three = b.lend('a');
    assert_eq!(b.counters(), (0, 3, 1));
    let (fourth, fx) = b.ask('a');
    assert!(fx.is_empty());
    let fx = b.pass(secs(30));
    let timeout = Refusal::Timeout { size: 2, overflow: 1, timeout: secs(30) };
    assert_eq!(failed(&fx, fourth), Some(timeout));
    assert_eq!(b.counters(), (0, 3, 1));
    b.back(one);
    assert_eq!(b.counters(), (1, 2, 1));
    b.back(two);
    assert_eq!(b.counters(), (2, 1, 1));
    assert_eq!(closes(&b.back(three)), [(three, CloseReason::Surplus)], "whichever finds the pool full");
    assert_eq!(b.counters(), (2, 0, 0));
    assert_eq!(
        b.engine.stats().to_string(),
        "Pool size: 2  Connections in pool: 2 Current Overflow: 0 Current Checked out connections: 0"
    );
}

#[test]
fn size_zero_has_no_limit_and_keeps_all() {
    let mut b = Bench::new(Settings { size: 0, max_overflow: Some(1), ..settings() });
    let out: Vec<_> = (0..4).map(|_| b.lend('a')).collect();
    assert_eq!(b.counters(), (0, 4, 0));
    for conn in out {
        assert!(b.back(conn).is_empty());
    }
    assert_eq!(b.counters(), (4, 0, 0));
}

#[test]
fn unlimited_overflow_never_waits_and_keeps_size() {
    let mut b = Bench::new(Settings { max_overflow: None, ..settings() });
    let out: Vec<_> = (0..9).map(|_| b.lend('a')).collect();
    assert_eq!(b.counters(), (0, 9, 7));
    let closed: usize = out.into_iter().map(|conn| closes(&b.back(conn)).len()).sum();
    assert_eq!((closed, b.counters()), (7, (2, 0, 0)));
}

#[test]
fn fifo_lends_the_longest_idle_lifo_the_last_returned() {
    for (order, first) in [(Order::Fifo, 0), (Order::Lifo, 1)] {
        let mut b = Bench::new(Settings { order, ..settings() });
        let out = [b.lend('a'), b.lend('a')];
        let _ = out.map(|conn| b.back(conn));
        assert_eq!(b.lend('a'), out[first], "{order:?}");
        assert_eq!(b.lend('a'), out[1 - first], "{order:?}");
    }
}

#[test]
fn recycle_is_strict_and_happens_at_checkout_only() {
    let mut b = Bench::new(Settings { recycle: Some(secs(60)), ..settings() });
    let one = b.lend('a');
    b.now += secs(60);
    assert!(b.back(one).is_empty());
    assert_eq!(b.lend('a'), one, "exactly as old as allowed");
    b.back(one);
    assert!(b.pass(Duration::from_nanos(1)).is_empty(), "nothing in the background");
    let (request, fx) = b.ask('a');
    assert_eq!(closes(&fx), [(one, CloseReason::Recycled)]);
    let [new] = connects(&fx)[..] else { panic!("{fx:?}") };
    assert_eq!(b.counters(), (0, 1, -1), "in the same slot");
    assert_eq!(granted(&b.on(Event::Opened { conn: new }), request), Some(new));
}

#[test]
fn recycle_zero_reconnects_every_time_and_still_lends_what_it_opened() {
    let mut b = Bench::new(Settings { recycle: Some(Duration::ZERO), ..settings() });
    let (request, fx) = b.ask('a');
    b.now += secs(1);
    let conn = connects(&fx)[0];
    assert_eq!(granted(&b.on(Event::Opened { conn }), request), Some(conn), "fresh is never stale");
    b.back(conn);
    assert_eq!(closes(&b.request('a')), [(conn, CloseReason::Recycled)]);
}

#[test]
fn recycle_jitter_is_up_to_its_share_earlier_and_never_later() {
    let mut b = Bench::new(Settings { size: 200, recycle: Some(secs(1000)), recycle_jitter_percent: 20, ..settings() });
    let out: Vec<_> = (0..200).map(|_| b.lend('a')).collect();
    for conn in out {
        b.back(conn);
    }
    let after = |b: &Bench, server: &Server<char>| b.engine.recycle_after(server).unwrap();
    let all: Vec<_> = b.engine.servers.iter().flatten().map(|server| after(&b, server)).collect();
    assert!(all.iter().all(|after| (secs(800)..=secs(1000)).contains(after)));
    let early = all.iter().filter(|after| **after < secs(900)).count();
    assert!((60..140).contains(&early), "spread evenly: {early} of 200 in the earlier half");
}

#[test]
fn a_usable_connection_is_preferred_to_a_stale_one_which_is_closed() {
    let mut b = Bench::new(Settings { recycle: Some(secs(60)), ..settings() });
    let old = b.lend('a');
    b.now += secs(50);
    let young = b.lend('a');
    b.back(old);
    b.back(young);
    b.now += secs(20);
    let (request, fx) = b.ask('a');
    assert_eq!(closes(&fx), [(old, CloseReason::Recycled)]);
    assert_eq!(granted(&fx, request), Some(young));
    assert_eq!(connects(&fx), []);
    assert_eq!(b.counters(), (1, 1, 0), "its slot stays, empty");
}

#[test]
fn one_stale_connection_is_closed_per_checkout() {
    let mut b = Bench::new(settings());
    let out = [b.lend('a'), b.lend('a')];
    let _ = out.map(|conn| b.back(conn));
    b.now += secs(1);
    b.invalidate();
    let fx = b.request('a');
    assert_eq!(closes(&fx), [(out[0], CloseReason::Invalidated)]);
    assert_eq!(b.physical(), (1, 0, 1, 1));
}

#[test]
fn a_failed_connect_gives_its_slot_back() {
    let mut b = Bench::new(settings());
    let (request, fx) = b.ask('a');
    let fx = b.on(Event::OpenFailed { conn: connects(&fx)[0] });
    assert_eq!(failed(&fx, request), Some(Refusal::ConnectFailed));
    assert_eq!(b.counters(), (0, 0, -2), "a new record is dropped");
    let one = b.lend('a');
    b.discard(one);
    assert_eq!(b.counters(), (1, 0, -1), "an empty slot counts as checked in");
    b.ended(one);
    let (request, fx) = b.ask('a');
    assert_eq!(b.counters(), (0, 1, -1));
    let fx = b.on(Event::OpenFailed { conn: connects(&fx)[0] });
    assert_eq!(failed(&fx, request), Some(Refusal::ConnectFailed));
    assert_eq!(b.counters(), (1, 0, -1), "an old record goes back empty");
    assert_eq!(b.engine.stats().connect_failures, 2);
}

#[test]
fn a_discarded_connection_leaves_its_slot_unless_the_pool_is_full() {
    let mut b = Bench::new(settings());
    let out = [b.lend('a'), b.lend('a'), b.lend('a')];
    b.back(out[0]);
    b.back(out[1]);
    assert_eq!(closes(&b.discard(out[2])), [(out[2], CloseReason::Disconnected)]);
    assert_eq!(b.counters(), (2, 0, 0));
}

#[test]
fn pings_what_is_not_fresh_and_not_heard_from_lately() {
    let ping = |fx: Vec<Fx>| match fx[..] {
        [Effect::Grant { ping, .. }] => ping,
        _ => panic!("{fx:?}"),
    };
    let mut b = Bench::new(Settings { pre_ping: true, ping_after: secs(1), ..settings() });
    let fx = b.request('a');
    let conn = connects(&fx)[0];
    b.now += secs(5);
    assert!(!ping(b.on(Event::Opened { conn })), "fresh");
    b.back(conn);
    b.now += Duration::from_millis(999);
    assert!(!ping(b.request('a')), "heard from lately");
    b.on(Event::CheckIn { conn, heard: false });
    b.now += Duration::from_millis(1);
    assert!(ping(b.request('a')), "never used meanwhile, so not heard from");
    b.back(conn);
    b.set(Settings { pre_ping: true, ping_after: Duration::ZERO, ..settings() }, Replace::Keep);
    assert!(ping(b.request('a')), "zero: always");
    b.back(conn);
    b.set(settings(), Replace::Keep);
    b.now += secs(99);
    assert!(!ping(b.request('a')), "switched off");
}

#[test]
fn a_ping_that_finds_a_dead_connection_invalidates_the_pool_lazily() {
    let mut b = Bench::new(Settings { pre_ping: true, ping_after: Duration::ZERO, ..settings() });
    let out = [b.lend('a'), b.lend('a'), b.lend('a')];
    b.back(out[0]);
    b.back(out[1]);
    b.now += secs(1);
    let (request, fx) = b.ask('a');
    assert_eq!(granted(&fx, request), Some(out[0]));
    let reason = CloseReason::PingFailed;
    let fx = b.on(Event::Unfit { conn: out[0], request: Some(request), reason, invalidate: true });
    assert_eq!(closes(&fx), [(out[0], reason)], "the other idle one is left alone");
    assert_eq!(connects(&fx), [], "at the limit until the dead one has ended");
    let fx = b.ended(out[0]);
    let new = connects(&fx)[0];
    let fx = b.on(Event::Opened { conn: new });
    assert_eq!(fx, [Effect::Grant { request, conn: new, ping: false, fresh: true }]);
    assert!(b.back(out[2]).is_empty(), "one in use comes back as ever");
    let (next, fx) = b.ask('a');
    assert_eq!(closes(&fx), [(out[1], CloseReason::Invalidated)], "replaced without being pinged");
    assert_eq!(granted(&fx, next), None);
}

#[test]
fn the_slot_of_a_dead_connection_is_the_next_to_be_taken() {
    for order in [Order::Fifo, Order::Lifo] {
        let mut b = Bench::new(Settings { max_overflow: Some(0), order, ..settings() });
        let out = [b.lend('a'), b.lend('a')];
        let _ = out.map(|conn| b.back(conn));
        b.now += secs(1);
        let (request, fx) = b.ask('a');
        let conn = granted(&fx, request).unwrap();
        b.on(Event::Unfit { conn, request: Some(request), reason: CloseReason::PingFailed, invalidate: true });
        b.on(Event::Cancel { request });
        assert_eq!(b.request('a'), [], "{order:?}: the other one, suspect as well, is left for its own checkout");
        assert_eq!(connects(&b.ended(conn)).len(), 1);
    }
}

#[test]
fn a_connection_from_before_an_invalidation_does_not_move_it() {
    let mut b = Bench::new(settings());
    let old = b.lend('a');
    b.now += secs(1);
    b.invalidate();
    b.now += secs(1);
    let new = b.lend('a');
    b.back(new);
    b.now += secs(1);
    b.on(Event::Discard { conn: old, reason: CloseReason::Disconnected, invalidate: true });
    assert_eq!(b.lend('a'), new, "opened after what the old one tells of");
    b.on(Event::Discard { conn: new, reason: CloseReason::Disconnected, invalidate: true });
    assert_eq!(b.engine.invalidated_at, Some(b.now));
}

#[test]
fn a_connection_opened_at_the_moment_of_an_invalidation_does_not_move_it_either() {
    let mut b = Bench::new(settings());
    let at = b.now;
    b.invalidate();
    let conn = b.lend('a');
    b.now += secs(1);
    b.on(Event::Discard { conn, reason: CloseReason::Disconnected, invalidate: true });
    assert_eq!(b.engine.invalidated_at, Some(at), "SQLAlchemy's comparison is strict");
}

#[test]
fn an_idle_connection_found_dead_leaves_an_empty_slot() {
    let mut b = Bench::new(settings());
    let one = b.lend('a');
    b.back(one);
    let reason = CloseReason::Disconnected;
    let fx = b.on(Event::Unfit { conn: one, request: None, reason, invalidate: false });
    assert_eq!(closes(&fx), [(one, reason)]);
    assert_eq!((b.counters(), b.physical()), ((1, 0, -1), (0, 0, 0, 1)));
    assert!(b.on(Event::Unfit { conn: one, request: None, reason, invalidate: true }).is_empty(), "once");
    assert_eq!(b.engine.invalidated_at, None);
}

#[test]
fn events_about_what_is_not_so_are_ignored() {
    let mut b = Bench::new(settings());
    let conn = b.lend('a');
    b.back(conn);
    let before = b.engine.stats();
    for event in [
        Event::CheckIn { conn, heard: true },
        Event::Discard { conn, reason: CloseReason::Abandoned, invalidate: true },
        Event::Opened { conn },
        Event::OpenFailed { conn },
        Event::Closed { conn, ended: false },
        Event::CheckIn { conn: ConnId(77), heard: true },
        Event::Cancel { request: RequestId(77) },
    ] {
        assert!(b.on(event).is_empty());
    }
    assert_eq!(b.engine.stats(), before, "giving back twice has no effect");
}
