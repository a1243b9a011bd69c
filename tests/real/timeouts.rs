//! The acquire timeout in SQLAlchemy's words, and the other times of a policy.

use crate::support::{Bed, Client, bed, fe};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn the_acquire_timeout_speaks_as_sqlalchemy_does() {
    let bed = Bed::with(|policy| policy.set("pool.size", 1).set("pool.maxOverflow", 1).set("timeouts.acquire", "1s"));
    if bed::is_direct() {
        return;
    }
    let (mut a, mut b, mut c) = (bed.client(), bed.client(), bed.client());
    a.rows("BEGIN");
    b.rows("BEGIN");
    for _ in 0..2 {
        let start = Instant::now();
        let error = c.query("SELECT 1").unwrap_err();
        let waited = start.elapsed();
        assert_eq!(error.code, "53300");
        let text = "QueuePool limit of size 1 overflow 1 reached, connection timed out, timeout 1.00";
        assert!(error.message.contains(text), "{error:?}");
        assert!((Duration::from_millis(990)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
        // One error for a whole batch, and the client stays.
        c.send(&[fe::extended("SELECT 1", &[]), fe::query("SELECT 2")]);
        c.expect("E:53300 Z:I E:53300 Z:I");
    }
    a.rows("COMMIT");
    c.works();
}

#[test]
fn waiters_are_served_in_their_order() {
    let bed = Bed::sized(1);
    if bed::is_direct() {
        return;
    }
    let mut holder = bed.client();
    holder.rows("CREATE TABLE t (n serial, who int)");
    holder.rows("BEGIN");
    let mut waiting: Vec<_> = (0..10).map(|_| bed.client()).collect();
    for (n, client) in waiting.iter_mut().enumerate() {
        client.send(&[fe::query(&format!("INSERT INTO t (who) VALUES ({n})"))]);
        thread::sleep(Duration::from_millis(20));
    }
    holder.rows("COMMIT");
    for client in &mut waiting {
        client.expect("C:INSERT_0_1 Z:I");
    }
    let order = holder.value("SELECT string_agg(who::text, ',' ORDER BY n) FROM t");
    assert_eq!(order, "0,1,2,3,4,5,6,7,8,9");
}

#[test]
fn a_waiter_is_served_the_moment_a_slot_is_free() {
    let bed = Bed::sized(1);
    if bed::is_direct() {
        return;
    }
    let (mut holder, mut waiting) = (bed.client(), bed.client());
    holder.rows("BEGIN");
    waiting.send(&[fe::query("SELECT 'served'")]);
    waiting.expect_silence(Duration::from_millis(100));
    // The server dies with its client: the slot is free once it is gone, not at the waiter's deadline.
    let pid = holder.backend();
    let start = Instant::now();
    bed.admin().rows(&format!("SELECT pg_terminate_backend({pid})"));
    waiting.expect("T D:served C Z:I");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn idle_in_transaction_ends_by_the_servers_own_timeout() {
    let bed = Bed::with(|policy| {
        policy.set("timeouts.idleInTransaction", "500ms").set("pool.size", 1).set("pool.maxOverflow", 0)
    });
    if bed::is_direct() {
        return;
    }
    let mut client = bed.client();
    client.rows("BEGIN");
    client.expect_end(Some("25P03"));
    let mut next = bed.client();
    thread::sleep(Duration::from_millis(900));
    next.works();
}

#[test]
fn recycle_replaces_servers_at_checkout() {
    let bed = Bed::with(|policy| {
        policy.set("pool.size", 1).set("pool.maxOverflow", 0).set("pool.recycle", "1s").set("health.interval", "60s")
    });
    if bed::is_direct() {
        return;
    }
    // Asks twice; None if that took so long that the server may have become too old in between.
    let twice = |client: &mut Client| {
        let start = Instant::now();
        let servers = (client.backend(), client.backend());
        (start.elapsed() < Duration::from_millis(700)).then_some(servers)
    };
    let mut client = bed.client();
    if let Some((one, two)) = twice(&mut client) {
        assert_eq!(one, two);
    }
    client.rows("BEGIN");
    let first = client.backend();
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(client.backend(), first, "a borrower was interrupted");
    client.rows("COMMIT");
    let second = client.backend();
    assert_ne!(second, first);
    // Not in the background: an over-age idle one stays until somebody asks.
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(bed.backends(), [second]);
}

#[test]
fn overflow_is_closed_when_given_back_and_idle_ones_after_their_time() {
    let bed = Bed::with(|policy| {
        let policy = policy.set("pool.size", 2).set("pool.maxOverflow", 3);
        policy.set("pool.idleTimeout", "1s").set("pool.minIdle", 1)
    });
    let Some(sidecar) = bed.sidecar() else { return };
    let mut clients: Vec<_> = (0..5).map(|_| bed.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.rows("BEGIN")));
    let health = sidecar.health();
    assert_eq!((&health["checked_out"], &health["overflow"]), (&5.into(), &3.into()), "{health}");
    clients.iter_mut().for_each(|client| drop(client.rows("COMMIT")));
    crate::support::eventually("two are kept", || bed.backends().len() == 2);
    let health = sidecar.health();
    assert_eq!((&health["checked_out"], &health["overflow"], &health["checked_in"]), (&0.into(), &0.into(), &2.into()));
    crate::support::eventually("one is kept", || bed.backends().len() == 1);
}
