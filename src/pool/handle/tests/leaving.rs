//! One test per point at which a client, a task or the pool can go.

use super::*;

#[tokio::test(start_paused = true)]
async fn leaving_before_the_first_poll() {
    let b = Bench::new(settings(1));
    drop(b.ask());
    assert_eq!(b.now(), [0; 5]);
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn leaving_while_it_connects() {
    let b = Bench::new(settings(1));
    shut(&b.fake.connect_gate);
    let mut ask = b.ask();
    assert!(poll(&mut ask).is_pending());
    settle().await;
    drop(ask);
    assert_eq!(b.now(), [0, 0, 1, 0, 0]);
    b.fake.connect_gate.add_permits(OPEN);
    settle().await;
    assert_eq!(b.now(), [1, 0, 0, 0, 0], "kept for the next");
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn leaving_while_it_stands_in_line() {
    let b = Bench::new(settings(1));
    let lease = b.lend().await;
    let mut ask = b.ask();
    let mut behind = b.ask();
    assert!(poll(&mut ask).is_pending() && poll(&mut behind).is_pending());
    drop(ask);
    lease.give_back(clock());
    assert!(matches!(poll(&mut behind), Poll::Ready(Ok(_))));
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn leaving_after_the_grant_before_the_poll_that_takes_it() {
    let b = Bench::new(settings(1));
    let lease = b.lend().await;
    let mut ask = b.ask();
    let mut behind = b.ask();
    assert!(poll(&mut ask).is_pending() && poll(&mut behind).is_pending());
    lease.give_back(clock());
    assert_eq!(b.now(), [0, 1, 0, 0, 1]);
    drop(ask);
    assert!(matches!(poll(&mut behind), Poll::Ready(Ok(_))), "it went on to the next, unharmed");
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn leaving_after_the_refusal_before_the_poll_that_takes_it() {
    let b = Bench::new(settings(1));
    let lease = b.lend().await;
    let mut ask = b.ask();
    assert!(poll(&mut ask).is_pending());
    advance(Duration::from_secs(31)).await;
    settle().await;
    assert_eq!(b.pool.stats().timeouts, 1);
    drop(ask);
    lease.give_back(clock());
    b.nothing_leaked(1).await;
}

#[tokio::test(start_paused = true)]
async fn leaving_while_it_pings() {
    for (answer, idle) in [(Ok(()), 1), (Err(PingError::Disconnected), 0), (Err(PingError::Other("odd")), 0)] {
        let b = Bench::new(pinging(1));
        b.lend().await.give_back(clock());
        shut(&b.fake.ping_gate);
        let mut ask = b.ask();
        assert!(poll(&mut ask).is_pending());
        settle().await;
        drop(ask);
        assert_eq!(b.now(), [0, 1, 0, 0, 0], "the ping goes on");
        *b.fake.ping.lock().unwrap() = answer.clone();
        b.fake.ping_gate.add_permits(OPEN);
        settle().await;
        assert_eq!(b.now(), [idle, 0, 0, 0, 0], "{answer:?}");
        *b.fake.ping.lock().unwrap() = Ok(());
        b.nothing_leaked(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn leaving_while_closing_does_not_open_the_pool_again() {
    let b = Bench::new(settings(1));
    let lease = b.lend().await;
    {
        let mut close = Box::pin(b.pool.close());
        assert!(poll(&mut close).is_pending());
    }
    assert_eq!(b.ask().await.unwrap_err(), CheckoutError::Closed);
    lease.give_back(clock());
    b.pool.close().await;
    assert_eq!((b.now(), b.fake.open.load(SeqCst)), ([0; 5], 0));
}

#[tokio::test(start_paused = true)]
async fn close_ends_when_the_last_connection_has_ended() {
    let b = Bench::new(settings(3));
    let leases = [b.lend().await, b.lend().await];
    b.lend().await.give_back(clock());
    shut(&b.fake.close_gate);
    let pool = b.pool.clone();
    let close = tokio::spawn(async move { pool.close().await });
    let [one, two] = leases;
    settle().await;
    one.give_back(clock());
    two.discard(CloseReason::ResetFailed);
    settle().await;
    assert!(!close.is_finished());
    b.fake.close_gate.add_permits(OPEN);
    close.await.unwrap();
    assert_eq!(b.fake.open.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_panic_leak_nothing() {
    let b = Bench::new(pinging(1));
    b.fake.panic.store(true, SeqCst);
    assert_eq!(b.ask().await.unwrap_err(), CheckoutError::Lost);
    b.fake.open.store(0, SeqCst);
    b.fake.panic.store(false, SeqCst);
    b.lend().await.give_back(clock());
    b.fake.panic.store(true, SeqCst);
    assert_eq!(b.ask().await.unwrap_err(), CheckoutError::Lost);
    b.fake.open.store(0, SeqCst);
    assert_eq!(b.pool.stats().close_deadlines, 1, "its end was not seen");
    b.fake.panic.store(false, SeqCst);
    let lease = b.lend().await;
    b.fake.panic.store(true, SeqCst);
    lease.discard(CloseReason::Protocol);
    settle().await;
    b.fake.open.store(0, SeqCst);
    b.fake.panic.store(false, SeqCst);
    assert_eq!(b.pool.stats().close_deadlines, 2);
    b.nothing_leaked(1).await;
}
