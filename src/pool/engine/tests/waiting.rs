//! Where this pool goes beyond: the line, the limit counted to the end of each connection, the probe.

use super::*;

#[test]
fn who_has_waited_longest_gets_what_comes_first() {
    let mut b = Bench::new(Settings { max_overflow: Some(0), ..settings() });
    let out = [b.lend('a'), b.lend('a')];
    let (first, _) = b.ask('a');
    let (second, _) = b.ask('a');
    assert_eq!(b.engine.stats().waiting, 2);
    assert_eq!(granted(&b.back(out[1]), first), Some(out[1]));
    assert_eq!(granted(&b.back(out[0]), second), Some(out[0]));
}

#[test]
fn a_hung_connect_holds_nobody() {
    let mut b = Bench::new(settings());
    let one = b.lend('a');
    let (hung, fx) = b.ask('a');
    let opening = connects(&fx)[0];
    assert_eq!(granted(&b.back(one), hung), Some(one), "what comes back first");
    let fx = b.on(Event::Opened { conn: opening });
    assert!(fx.is_empty());
    assert_eq!(b.physical(), (1, 1, 0, 0), "the opening is kept for the next");
}

#[test]
fn a_discarded_connection_lets_the_next_open_once_it_has_ended() {
    let mut b = Bench::new(Settings { size: 1, max_overflow: Some(0), ..settings() });
    let one = b.lend('a');
    let (waiting, _) = b.ask('a');
    assert_eq!(connects(&b.discard(one)), [], "the server still has it");
    let fx = b.ended(one);
    let new = connects(&fx)[0];
    assert_eq!(granted(&b.on(Event::Opened { conn: new }), waiting), Some(new));
}

#[test]
fn at_the_limit_an_idle_one_is_lent_while_a_stale_one_ends() {
    let mut b = Bench::new(Settings { max_overflow: Some(0), recycle: Some(secs(60)), ..settings() });
    let old = b.lend('a');
    b.now += secs(60);
    let young = b.lend('a');
    b.back(old);
    b.back(young);
    b.now += secs(1);
    assert_eq!(b.lend('a'), young);
    let fx = b.request('a');
    assert_eq!((connects(&fx).len(), b.physical()), (0, (0, 1, 0, 1)), "the limit holds until the old one has ended");
    assert_eq!(connects(&b.ended(old)).len(), 1);
}

#[test]
fn the_timeout_does_not_fire_while_an_opening_is_under_way_for_the_request() {
    let mut b = Bench::new(Settings { size: 1, max_overflow: Some(0), ..settings() });
    let (first, fx) = b.ask('a');
    let opening = connects(&fx)[0];
    let (second, _) = b.ask('a');
    let fx = b.pass(secs(31));
    assert_eq!(failed(&fx, first), None, "it connects");
    assert!(failed(&fx, second).is_some(), "it waits");
    assert!(b.engine.due().is_some());
    assert_eq!(granted(&b.on(Event::Opened { conn: opening }), first), Some(opening));
    assert_eq!(b.engine.stats().timeouts, 1);
}

#[test]
fn nor_does_it_fire_while_somebody_without_an_opening_stands_before_it() {
    let mut b = Bench::new(Settings { max_overflow: Some(0), ..settings() });
    let dead = b.lend('a');
    b.back(dead);
    let (first, fx) = b.ask('a');
    assert_eq!(granted(&fx, first), Some(dead));
    let (second, fx) = b.ask('z');
    let opening = connects(&fx)[0];
    b.pass(secs(5));
    b.set(Settings { cap: Some(1), ..settings() }, Replace::Keep);
    b.on(Event::Unfit { conn: dead, request: Some(first), reason: CloseReason::PingFailed, invalidate: false });
    for _ in 0..2 {
        assert_eq!(b.pass(secs(13)), [], "the second connects, the first waits");
    }
    let fx = b.on(Event::OpenFailed { conn: opening });
    assert_eq!(failed(&fx, second), Some(Refusal::ConnectFailed));
}

#[test]
fn zero_acquire_means_now_or_never_but_may_connect() {
    let mut b = Bench::new(Settings { size: 1, max_overflow: Some(0), acquire: Duration::ZERO, ..settings() });
    b.lend('a');
    let (request, fx) = b.ask('a');
    let timeout = Refusal::Timeout { size: 1, overflow: 0, timeout: Duration::ZERO };
    assert_eq!(failed(&fx, request), Some(timeout));
}

#[test]
fn no_more_wait_than_may() {
    let mut b = Bench::new(Settings { size: 1, max_overflow: Some(0), max_waiting: 1, ..settings() });
    let (first, fx) = b.ask('a');
    let conn = connects(&fx)[0];
    let (waits, fx) = b.ask('a');
    assert!(fx.is_empty(), "the first connects, it doesn't wait");
    let (third, fx) = b.ask('a');
    assert_eq!(failed(&fx, third), Some(Refusal::TooManyWaiting { max: 1 }));
    assert_eq!(granted(&b.on(Event::Opened { conn }), first), Some(conn));
    let (fourth, fx) = b.ask('a');
    assert!(failed(&fx, fourth).is_some());
    b.on(Event::Cancel { request: waits });
    assert!(b.request('a').is_empty());
    assert_eq!(b.engine.stats().refused, 2);
}

#[test]
fn who_leaves_costs_nothing() {
    let mut b = Bench::new(settings());
    let (gone, fx) = b.ask('a');
    b.on(Event::Cancel { request: gone });
    assert_eq!(b.on(Event::Opened { conn: connects(&fx)[0] }), []);
    assert_eq!(b.physical(), (1, 0, 0, 0));
    assert_eq!(connects(&b.request('a')), [], "lent to the next");
}

#[test]
fn a_failed_opening_is_told_to_the_oldest_of_its_key_and_the_rest_go_on() {
    let mut b = Bench::new(settings());
    let (first, fx) = b.ask('a');
    let (second, _) = b.ask('a');
    let fx = b.on(Event::OpenFailed { conn: connects(&fx)[0] });
    assert_eq!(failed(&fx, first), Some(Refusal::ConnectFailed));
    assert_eq!(failed(&fx, second), None);
    assert_eq!(b.physical(), (0, 0, 1, 0), "the second's own");
}

#[test]
fn a_probe_takes_any_idle_connection_or_a_free_slot_and_never_waits() {
    let mut b = Bench::new(Settings { size: 1, max_overflow: Some(1), ..settings() });
    let one = b.lend('a');
    b.back(one);
    let probe = |b: &mut Bench| {
        b.requests += 1;
        let request = RequestId(b.requests);
        (request, b.on(Event::Probe { request, key: 'p' }))
    };
    let (request, fx) = probe(&mut b);
    assert_eq!(granted(&fx, request), Some(one), "whatever its key");
    let (request, fx) = probe(&mut b);
    let opening = connects(&fx)[0];
    assert_eq!(failed(&fx, request), None, "a free slot");
    let (busy, fx) = probe(&mut b);
    assert_eq!(fx, [Effect::Fail { request: busy, why: Refusal::Busy }]);
    assert_eq!(granted(&b.on(Event::Opened { conn: opening }), request), Some(opening));
    b.discard(one);
    b.request('a');
    let (busy, fx) = probe(&mut b);
    assert_eq!(failed(&fx, busy), Some(Refusal::Busy), "the slot that frees is somebody's");
    b.on(Event::Close);
    let (closed, fx) = probe(&mut b);
    assert_eq!(failed(&fx, closed), Some(Refusal::Closed));
}

#[test]
fn a_probe_takes_a_slot_that_nobody_needs_for_whom_an_opening_is_under_way() {
    let mut b = Bench::new(Settings { max_overflow: Some(0), ..settings() });
    b.request('a');
    let fx = b.on(Event::Probe { request: RequestId(50), key: 'p' });
    assert_eq!((connects(&fx).len(), failed(&fx, RequestId(50))), (1, None));
}

#[test]
fn a_probe_replaces_a_stale_connection() {
    let mut b = Bench::new(Settings { size: 1, max_overflow: Some(0), ..settings() });
    let one = b.lend('a');
    b.back(one);
    b.now += secs(1);
    b.invalidate();
    let request = RequestId(50);
    let fx = b.on(Event::Probe { request, key: 'p' });
    assert_eq!(closes(&fx), [(one, CloseReason::Invalidated)]);
    assert_eq!(failed(&fx, request), None);
    assert_eq!(connects(&b.ended(one)).len(), 1);
}

#[test]
fn whoever_goes_back_into_line_may_wait_as_long_again() {
    let sized = Settings { size: 1, max_overflow: Some(0), ..settings() };
    let mut b = Bench::new(sized.clone());
    let conn = b.lend('a');
    b.back(conn);
    b.pass(secs(60));
    let (request, _) = b.ask('a');
    b.set(Settings { cap: Some(0), ..sized }, Replace::Keep);
    assert_eq!(b.engine.due(), None);
    b.on(Event::Unfit { conn, request: Some(request), reason: CloseReason::PingFailed, invalidate: true });
    assert_eq!(b.engine.due(), Some(b.now + secs(30)));
    assert_eq!(b.pass(secs(30) - Duration::from_nanos(1)), []);
    assert!(failed(&b.pass(Duration::from_nanos(1)), request).is_some());
}

#[test]
fn who_was_being_pinged_for_is_told_of_the_closing() {
    let mut b = Bench::new(settings());
    let (request, fx) = b.ask('a');
    let conn = connects(&fx)[0];
    b.on(Event::Opened { conn });
    b.on(Event::Close);
    let reason = CloseReason::PingFailed;
    let fx = b.on(Event::Unfit { conn, request: Some(request), reason, invalidate: true });
    assert_eq!((failed(&fx, request), closes(&fx)), (Some(Refusal::Closed), vec![(conn, reason)]));
}

#[test]
fn closing_tells_who_waits_and_closes_what_comes_back() {
    let mut b = Bench::new(settings());
    let out = [b.lend('a'), b.lend('a')];
    b.back(out[0]);
    let (connecting, fx) = b.ask('z');
    let opening = connects(&fx)[0];
    let fx = b.on(Event::Close);
    assert_eq!(failed(&fx, connecting), Some(Refusal::Closed));
    assert_eq!(closes(&fx), [(out[0], CloseReason::Shutdown)]);
    let (late, fx) = b.ask('a');
    assert_eq!(failed(&fx, late), Some(Refusal::Closed));
    assert_eq!(closes(&b.back(out[1])), [(out[1], CloseReason::Shutdown)]);
    assert_eq!(closes(&b.on(Event::Opened { conn: opening })), [(opening, CloseReason::Shutdown)]);
    for conn in [out[0], out[1]] {
        b.ended(conn);
        assert!(!b.engine.is_gone());
    }
    b.on(Event::Closed { conn: opening, ended: false });
    assert!(b.engine.is_gone());
    assert_eq!(b.engine.stats().close_deadlines, 1);
}
