//! What a client sees.

use super::*;

#[tokio::test(start_paused = true)]
async fn lends_what_was_given_back() {
    let b = Bench::new(settings(2));
    let lease = b.lend().await;
    assert!(lease.was_opened_now());
    let id = lease.id();
    lease.give_back(clock());
    let Poll::Ready(Ok(lease)) = poll(&mut b.ask()) else { panic!("an idle one is lent at once") };
    assert_eq!((lease.id(), lease.was_opened_now(), *lease), (id, false, 1));
    drop(lease);
    assert_eq!(b.fake.reasons(), [], "closing is a task's business");
    settle().await;
    assert_eq!(b.fake.reasons(), [CloseReason::Abandoned]);
    b.nothing_leaked(2).await;
}

#[tokio::test(start_paused = true)]
async fn what_needs_nothing_is_lent_at_once_and_all_else_is_left_to_a_checkout() {
    let b = Bench::new(Settings { pre_ping: true, ping_after: Duration::from_secs(1), ..settings(1) });
    assert!(b.pool.checkout_now(&'a', clock()).is_none(), "nothing is open");
    let lease = b.lend().await;
    let id = lease.id();
    assert!(b.pool.checkout_now(&'a', clock()).is_none(), "it is lent");
    lease.give_back(clock());
    assert!(b.pool.checkout_now(&'b', clock()).is_none(), "it has another key");
    let lease = b.pool.checkout_now(&'a', clock()).unwrap();
    assert_eq!((lease.id(), lease.was_opened_now(), b.pool.stats().in_use), (id, false, 1));
    lease.give_back(clock());
    advance(Duration::from_secs(1)).await;
    assert!(b.pool.checkout_now(&'a', clock()).is_none(), "it is to be pinged");
    b.lend().await.give_back(clock());
    assert_eq!(b.fake.pings.load(SeqCst), 1);
    b.fake.dead.store(1, SeqCst);
    assert!(b.pool.checkout_now(&'a', clock()).is_none(), "it is dead");
    assert_eq!(b.pool.stats().idle, 1, "which is found and dealt with by who checks out");
    b.pool.close().await;
    assert!(b.pool.checkout_now(&'a', clock()).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_timeout_has_sqlalchemys_words_and_comes_in_time() {
    let b = Bench::new(Settings { max_overflow: Some(1), ..settings(1) });
    let _leases = [b.lend().await, b.lend().await];
    let began = clock();
    let error = b.ask().await.unwrap_err();
    assert_eq!(error.to_string(), "QueuePool limit of size 1 overflow 1 reached, connection timed out, timeout 30.00");
    let took = clock() - began;
    assert!(took >= Duration::from_secs(30) && took < Duration::from_millis(30_010), "{took:?}");
    assert_eq!(b.pool.stats().timeouts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_short_timeout_wakes_the_keeper_early() {
    let b = Bench::new(settings(1));
    let _lease = b.lend().await;
    settle().await;
    b.set(Settings { acquire: Duration::from_millis(50), ..settings(1) });
    let began = clock();
    assert!(b.ask().await.is_err());
    assert!(clock() - began < Duration::from_millis(60), "{:?}", clock() - began);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_by_what_comes_back_in_order() {
    let b = Bench::new(settings(1));
    let lease = b.lend().await;
    let (done, mut results) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..3 {
        let (pool, done) = (b.pool.clone(), done.clone());
        tokio::spawn(async move {
            let lease = pool.checkout('a', clock()).await.unwrap();
            done.send((n, lease.id())).unwrap();
            lease.give_back(clock());
        });
        settle().await;
    }
    let id = lease.id();
    lease.give_back(clock());
    for n in 0..3 {
        assert_eq!(results.recv().await, Some((n, id)));
    }
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_connect_tells_its_request() {
    let b = Bench::new(settings(1));
    b.fake.refuse.store(true, SeqCst);
    assert_eq!(b.ask().await.unwrap_err(), CheckoutError::Connect("refused"));
    b.fake.refuse.store(false, SeqCst);
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_replaced_unseen_by_the_client() {
    let b = Bench::new(pinging(2));
    let leases = [b.lend().await, b.lend().await];
    let _ = leases.map(|lease| lease.give_back(clock()));
    *b.fake.ping.lock().unwrap() = Err(PingError::Disconnected);
    advance(Duration::from_millis(1)).await;
    let lease = b.lend().await;
    assert!(lease.was_opened_now());
    assert_eq!(b.fake.pings.load(SeqCst), 1);
    assert_eq!(b.fake.reasons(), [CloseReason::PingFailed]);
    let second = b.lend().await;
    assert!(second.was_opened_now());
    assert_eq!(b.fake.pings.load(SeqCst), 1, "replaced without being pinged");
    assert_eq!(b.fake.reasons(), [CloseReason::PingFailed, CloseReason::Invalidated]);
}

#[tokio::test(start_paused = true)]
async fn an_odd_ping_error_is_told() {
    let b = Bench::new(pinging(1));
    b.lend().await.give_back(clock());
    *b.fake.ping.lock().unwrap() = Err(PingError::Other("odd"));
    assert_eq!(b.ask().await.unwrap_err(), CheckoutError::Ping("odd"));
    *b.fake.ping.lock().unwrap() = Ok(());
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_dead_connection_is_told() {
    let b = Bench::new(pinging(1));
    b.lend().await.give_back(clock());
    *b.fake.ping.lock().unwrap() = Err(PingError::Disconnected);
    shut(&b.fake.connect_gate);
    let mut ask = b.ask();
    assert!(poll(&mut ask).is_pending());
    settle().await;
    assert_eq!(b.now(), [0, 0, 1, 0, 1]);
    // Another client's connection comes to it instead of the one being opened, and is dead as well.
    b.set(pinging(2));
    let mut other = b.ask();
    assert!(poll(&mut other).is_pending());
    settle().await;
    drop(ask);
    drop(other);
    b.fake.connect_gate.add_permits(OPEN);
    settle().await;
    assert_eq!(b.now(), [2, 0, 0, 0, 0]);
    shut(&b.fake.connect_gate);
    let leases: Vec<_> = {
        *b.fake.ping.lock().unwrap() = Ok(());
        vec![b.lend().await, b.lend().await]
    };
    *b.fake.ping.lock().unwrap() = Err(PingError::Disconnected);
    let mut ask = b.ask();
    assert!(poll(&mut ask).is_pending());
    for lease in leases {
        lease.give_back(clock());
        settle().await;
        b.pool.0.lock().engine.forget_invalidation();
    }
    assert_eq!(poll(&mut ask).map(Result::unwrap_err), Poll::Ready(CheckoutError::ConnectionClosed));
    *b.fake.ping.lock().unwrap() = Ok(());
    b.fake.connect_gate.add_permits(OPEN);
    b.nothing_leaked(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_end_is_seen_is_never_lent() {
    let b = Bench::new(settings(2));
    b.lend().await.give_back(clock());
    b.fake.dead.store(1, SeqCst);
    let lease = b.lend().await;
    assert_eq!(*lease, 2);
    assert_eq!(b.fake.reasons(), [CloseReason::Disconnected]);
    lease.give_back(clock());
    b.fake.dead.store(2, SeqCst);
    advance(Duration::from_millis(1001)).await;
    settle().await;
    assert_eq!(b.now(), [0; 5], "found by the look once a second");
    b.nothing_leaked(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_server_makes_the_others_suspect() {
    let b = Bench::new(settings(2));
    let [one, two] = [b.lend().await, b.lend().await];
    two.give_back(clock());
    advance(Duration::from_millis(1)).await;
    one.disconnected();
    settle().await;
    assert!(b.lend().await.was_opened_now());
    assert_eq!(b.fake.reasons(), [CloseReason::Disconnected, CloseReason::Invalidated]);
    b.nothing_leaked(2).await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_until_the_server_has_ended_the_connection() {
    let b = Bench::new(settings(2));
    shut(&b.fake.close_gate);
    for lease in [b.lend().await, b.lend().await] {
        lease.discard(CloseReason::Protocol);
    }
    let mut ask = b.ask();
    assert!(poll(&mut ask).is_pending());
    settle().await;
    assert_eq!(b.now(), [0, 0, 0, 2, 1]);
    b.fake.close_gate.add_permits(OPEN);
    assert!(ask.await.is_ok());
    assert_eq!(b.fake.most_open.load(SeqCst), 2);
    b.nothing_leaked(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_never_waits_and_may_be_left() {
    let b = Bench::new(settings(1));
    let probe = b.pool.probe('p').unwrap();
    assert!(b.pool.probe('p').is_none(), "one slot, one probe");
    let lease = probe.await.unwrap();
    assert!(b.pool.probe('p').is_none());
    lease.give_back(clock());
    drop(b.pool.probe('x').unwrap());
    assert_eq!(b.now(), [1, 0, 0, 0, 0]);
    assert!(!b.pool.probe('x').unwrap().await.unwrap().was_opened_now(), "whatever its key");
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn the_shrink_deadline_wakes_clients_and_ends_as_many_as_must_go() {
    let shrink = |size| Settings { shrink: Some(Duration::from_secs(5)), ..settings(size) };
    let b = Bench::new(shrink(2));
    let [mut one, mut two] = [b.lend().await, b.lend().await];
    let mut cx = Context::from_waker(noop_waker_ref());
    assert!(one.split().1.poll(&mut cx).is_pending() && one.split().1.poll(&mut cx).is_pending());
    let woken = tokio::spawn(async move {
        poll_fn(|cx| two.split().1.poll(cx)).await;
        two
    });
    settle().await;
    b.set(shrink(1));
    advance(Duration::from_secs(4)).await;
    settle().await;
    assert!(!woken.is_finished());
    let mut two = woken.await.unwrap();
    assert!(one.split().1.poll(&mut cx).is_ready());
    assert!(one.split().1.claim() && !one.split().1.claim());
    assert!(!two.split().1.claim() && two.split().1.poll(&mut cx).is_pending(), "one was enough");
    one.give_back(clock());
    two.give_back(clock());
    settle().await;
    assert_eq!((b.now(), b.fake.reasons()), ([1, 0, 0, 0, 0], vec![CloseReason::Shrunk]));
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn growth_serves_at_once_and_min_idle_fills() {
    let b = Bench::new(settings(1));
    let _lease = b.lend().await;
    let mut ask = b.ask();
    assert!(poll(&mut ask).is_pending());
    b.set(Settings { min_idle: 2, ..settings(4) });
    settle().await;
    assert!(matches!(poll(&mut ask), Poll::Ready(Ok(_))));
    settle().await;
    assert_eq!(b.pool.config().settings().min_idle, 2);
    assert_eq!(b.now()[0], 2);
}

#[tokio::test(start_paused = true)]
async fn each_connection_has_a_number_and_an_end_that_is_told() {
    let b = Bench::new(settings(2));
    let [one, two] = [b.lend().await, b.lend().await];
    let ids = [one.id(), two.id()];
    assert_eq!(ids, [1, 2]);
    assert_eq!(format!("{one:?}"), "Lease { id: 1, fresh: true, .. }");
    one.discard(CloseReason::Protocol);
    settle().await;
    assert_eq!(b.fake.reasons(), [CloseReason::Protocol]);
    two.give_back(clock());
    let [again, new] = [b.lend().await, b.lend().await];
    assert_eq!([again.id(), new.id()], [2, 3], "a number is never used twice");
}

#[tokio::test(start_paused = true)]
async fn a_request_and_a_pool_can_be_printed() {
    let b = Bench::new(settings(1));
    let mut ask = b.ask();
    assert_eq!(format!("{ask:?}"), "Checkout(\"new\")");
    assert!(poll(&mut ask).is_pending());
    assert_eq!(format!("{ask:?}"), "Checkout(\"waiting\")");
    settle().await;
    assert!(poll(&mut ask).is_ready());
    assert_eq!(format!("{ask:?}"), "Checkout(\"done\")");
    assert!(format!("{:?}", b.pool).starts_with("Pool(Stats { size: 1,"));
}

#[tokio::test(start_paused = true)]
async fn closings_that_the_server_did_not_end_are_counted() {
    let b = Bench::new(settings(1));
    for (stuck, deadlines) in [(false, 0), (true, 1), (false, 1)] {
        b.fake.stuck.store(stuck, SeqCst);
        b.lend().await.discard(CloseReason::Protocol);
        // Told by the task itself: the keeper has had no turn yet.
        let closing = async {
            while b.pool.stats().closing > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_millis(1), closing).await.unwrap();
        assert_eq!(b.pool.stats().close_deadlines, deadlines);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_back_into_line_wakes_the_keeper_for_its_deadline() {
    let short = |size| Settings { acquire: Duration::from_millis(50), ..pinging(size) };
    let b = Bench::new(short(1));
    b.lend().await.give_back(clock());
    // The first request's own deadline is no reason to wake any more.
    advance(Duration::from_millis(500)).await;
    settle().await;
    shut(&b.fake.ping_gate);
    let began = clock();
    let mut ask = b.ask();
    assert!(poll(&mut ask).is_pending());
    // Nothing may be opened any more when the ping says that its connection is dead.
    b.set(Settings { cap: Some(0), ..short(1) });
    settle().await;
    *b.fake.ping.lock().unwrap() = Err(PingError::Disconnected);
    b.fake.ping_gate.add_permits(OPEN);
    assert!(matches!(ask.await, Err(CheckoutError::Timeout { .. })));
    assert!(clock() - began < Duration::from_millis(60), "{:?}", clock() - began);
}

#[tokio::test(start_paused = true)]
async fn openings_follow_one_another_and_none_is_held_up_by_a_slow_one() {
    let b = Bench::new(settings(3));
    shut(&b.fake.connect_gate);
    let mut asked = [b.ask(), b.ask(), b.ask()];
    asked.iter_mut().for_each(|ask| assert!(poll(ask).is_pending()));
    settle().await;
    assert_eq!(b.fake.open.load(SeqCst), 1, "the others let the first go first");
    advance(Duration::from_millis(5)).await;
    settle().await;
    assert_eq!(b.fake.open.load(SeqCst), 3, "five milliseconds are all that a slow one gets");
    let began = clock();
    b.fake.connect_gate.add_permits(OPEN);
    let [first, second, third] = asked;
    let leases = [first.await.unwrap(), second.await.unwrap(), third.await.unwrap()];
    leases.into_iter().for_each(|lease| lease.discard(CloseReason::Hygiene));
    settle().await;
    let again = [b.ask(), b.ask(), b.ask()];
    for ask in again {
        ask.await.unwrap();
    }
    assert!(clock() - began < Duration::from_millis(5), "after a quick one the next begins at once");
}
