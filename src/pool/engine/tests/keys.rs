//! Connections are lent only to requests of an equal key.

use super::*;

#[test]
fn the_first_of_an_equal_key_is_lent() {
    let mut b = Bench::new(settings());
    let (a, z) = (b.lend('a'), b.lend('z'));
    b.back(a);
    b.back(z);
    assert_eq!(b.lend('z'), z);
}

#[test]
fn the_one_that_is_wished_for_is_lent_if_it_is_at_hand_and_the_first_in_order_otherwise() {
    let mut b = Bench::new(Settings { size: 3, recycle: Some(secs(10)), ..settings() });
    let (a, second, z) = (b.lend('a'), b.lend('a'), b.lend('z'));
    let serial = |b: &Bench, conn| b.engine.server(conn).unwrap().serial;
    let [wish, wished_second, other] = [a, second, z].map(|conn| serial(&b, conn));
    let offered = |b: &Bench, last| b.engine.offer(&'a', last, b.now).map(|(_, conn)| conn);
    b.back(second);
    assert_eq!(offered(&b, Some(wish)), Some(second), "it is lent");
    b.back(a);
    b.back(z);
    let first = offered(&b, None).unwrap();
    assert_eq!(offered(&b, Some(wish)), Some(a));
    assert_eq!(offered(&b, Some(wished_second)), Some(second));
    assert_eq!(offered(&b, Some(other)), Some(first), "another key's");
    assert_eq!(offered(&b, Some(99)), Some(first), "it is closed");
    b.now += secs(20);
    assert_eq!(offered(&b, Some(wish)), None, "too old to be lent again");
}

#[test]
fn below_the_limit_another_key_opens_another_connection() {
    let mut b = Bench::new(settings());
    let a = b.lend('a');
    b.back(a);
    let fx = b.request('z');
    assert_eq!((connects(&fx).len(), closes(&fx).len()), (1, 0));
}

#[test]
fn at_the_limit_the_longest_idle_of_another_key_makes_room() {
    let mut b = Bench::new(Settings { max_overflow: Some(0), ..settings() });
    let out = [b.lend('a'), b.lend('a')];
    let _ = out.map(|conn| b.back(conn));
    let (request, fx) = b.ask('z');
    assert_eq!(closes(&fx), [(out[0], CloseReason::OtherKey)]);
    let fx = b.ended(out[0]);
    let new = connects(&fx)[0];
    assert_eq!(granted(&b.on(Event::Opened { conn: new }), request), Some(new));
    assert_eq!(b.lend('a'), out[1]);
}

#[test]
fn the_oldest_of_another_key_does_not_starve() {
    let mut b = Bench::new(Settings { max_overflow: Some(0), ..settings() });
    let out = [b.lend('a'), b.lend('a')];
    let (oldest, _) = b.ask('z');
    let (later, _) = b.ask('a');
    let fx = b.back(out[0]);
    assert_eq!(closes(&fx), [(out[0], CloseReason::OtherKey)], "reopened for the oldest");
    let fx = b.back(out[1]);
    assert_eq!(granted(&fx, later), Some(out[1]), "the oldest is seen to: one is enough");
    let new = connects(&b.ended(out[0]))[0];
    assert_eq!(granted(&b.on(Event::Opened { conn: new }), oldest), Some(new));
}

#[test]
fn who_came_a_moment_later_may_go_first_if_the_oldest_has_one_to_come_back() {
    for (later_by, closed) in [(20, 0), (21, 1)] {
        let mut b = Bench::new(Settings { max_overflow: Some(0), ..settings() });
        let (a, z) = (b.lend('a'), b.lend('z'));
        let (oldest, _) = b.ask('z');
        b.now += Duration::from_millis(later_by);
        let (later, _) = b.ask('a');
        b.now += secs(1);
        let fx = b.back(a);
        assert_eq!((closes(&fx).len(), granted(&fx, later)), (closed, (closed == 0).then_some(a)), "{later_by} ms");
        assert_eq!(granted(&b.back(z), oldest), Some(z));
    }
}

#[test]
fn what_nobody_else_may_take_is_closed_for_the_oldest_at_once() {
    let mut b = Bench::new(Settings { max_overflow: Some(0), ..settings() });
    let (a, _z) = (b.lend('a'), b.lend('z'));
    b.request('z');
    assert_eq!(closes(&b.back(a)), [(a, CloseReason::OtherKey)]);
}

#[test]
fn no_more_are_overtaken_at_once_than_may_be() {
    for (waiting, closed) in [(64, 0), (65, 1)] {
        let mut b = Bench::new(Settings { max_overflow: Some(0), ..settings() });
        let (a, _z) = (b.lend('a'), b.lend('z'));
        for _ in 1..waiting {
            b.request('z');
        }
        b.request('a');
        assert_eq!(closes(&b.back(a)).len(), closed);
    }
}

#[test]
fn everybody_whom_nothing_idle_fits_gets_room_at_once() {
    let sized = |size| Settings { max_overflow: Some(0), size, ..settings() };
    let mut b = Bench::new(sized(5));
    let out = ['a', 'a', 'z', 'x', 'x'].map(|key| b.lend(key));
    b.discard(out[3]);
    b.discard(out[4]);
    for _ in 0..2 {
        assert_eq!(b.request('z'), [], "each has a slot, once what is closing has ended");
        b.now += secs(1);
    }
    assert_eq!((b.back(out[0]), b.back(out[1])), (vec![], vec![]));
    let fx = b.set(sized(3), Replace::Keep);
    let reason = CloseReason::OtherKey;
    assert_eq!(closes(&fx), [(out[0], reason), (out[1], reason)], "the slots are gone");
}

#[test]
fn an_opening_under_way_for_the_oldest_lets_the_later_one_go_first() {
    let mut b = Bench::new(settings());
    let out = [b.lend('a'), b.lend('a')];
    let (oldest, fx) = b.ask('z');
    let opening = connects(&fx)[0];
    let (later, _) = b.ask('a');
    assert_eq!(granted(&b.back(out[0]), later), Some(out[0]));
    assert_eq!(granted(&b.on(Event::Opened { conn: opening }), oldest), Some(opening));
}

#[test]
fn an_error_is_told_to_a_request_of_the_same_key_only() {
    let mut b = Bench::new(settings());
    let (other, fx) = b.ask('z');
    let z = connects(&fx)[0];
    let (same, fx) = b.ask('a');
    let fx = b.on(Event::OpenFailed { conn: connects(&fx)[0] });
    assert_eq!((failed(&fx, other), failed(&fx, same)), (None, Some(Refusal::ConnectFailed)));
    assert_eq!(granted(&b.on(Event::Opened { conn: z }), other), Some(z));
}

#[test]
fn a_full_pool_keeps_the_key_in_use() {
    let mut b = Bench::new(settings());
    let out = [b.lend('a'), b.lend('a'), b.lend('z')];
    b.back(out[0]);
    b.back(out[1]);
    assert_eq!(closes(&b.back(out[2])), [(out[0], CloseReason::Surplus)]);
    assert_eq!(b.lend('z'), out[2]);
}
