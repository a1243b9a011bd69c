//! The pool against a fake database on paused time: each await point left, each task lost.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures_util::task::noop_waker_ref;
use tokio::sync::Semaphore;
use tokio::time::{advance, timeout};

use super::*;
use crate::pool::backend::{CloseOutcome, PingError};
use crate::pool::checkout::Lease;
use crate::pool::config::Settings;

/// A database whose every answer waits for its gate, if the gate is shut.
struct Fake {
    connect_gate: Semaphore,
    ping_gate: Semaphore,
    close_gate: Semaphore,
    /// What the next connects end with, by turns; `None` = well.
    refuse: AtomicBool,
    panic: AtomicBool,
    ping: Mutex<Result<(), PingError<&'static str>>>,
    dead: AtomicU64,
    open: AtomicU32,
    most_open: AtomicU32,
    next: AtomicU64,
    reasons: Mutex<Vec<CloseReason>>,
    pings: AtomicU32,
}

const OPEN: usize = 1 << 20;

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            connect_gate: Semaphore::new(OPEN),
            ping_gate: Semaphore::new(OPEN),
            close_gate: Semaphore::new(OPEN),
            refuse: AtomicBool::new(false),
            panic: AtomicBool::new(false),
            ping: Mutex::new(Ok(())),
            dead: AtomicU64::new(0),
            open: AtomicU32::new(0),
            most_open: AtomicU32::new(0),
            next: AtomicU64::new(1),
            reasons: Mutex::new(Vec::new()),
            pings: AtomicU32::new(0),
        })
    }

    fn reasons(&self) -> Vec<CloseReason> {
        self.reasons.lock().unwrap().clone()
    }
}

fn shut(gate: &Semaphore) {
    assert_eq!(gate.forget_permits(OPEN), OPEN);
}

async fn pass(gate: &Semaphore) {
    drop(gate.acquire().await.unwrap());
}

impl Backend for Fake {
    type Key = char;
    type Conn = u64;
    type Error = &'static str;

    fn default_key(&self) -> char {
        'd'
    }

    async fn connect(&self, _: &char) -> Result<u64, &'static str> {
        let open = self.open.fetch_add(1, SeqCst) + 1;
        self.most_open.fetch_max(open, SeqCst);
        pass(&self.connect_gate).await;
        assert!(!self.panic.load(SeqCst), "as the test asked");
        if self.refuse.load(SeqCst) {
            self.open.fetch_sub(1, SeqCst);
            return Err("refused");
        }
        Ok(self.next.fetch_add(1, SeqCst))
    }

    async fn ping(&self, _: &mut u64) -> Result<(), PingError<&'static str>> {
        self.pings.fetch_add(1, SeqCst);
        pass(&self.ping_gate).await;
        assert!(!self.panic.load(SeqCst), "as the test asked");
        self.ping.lock().unwrap().clone()
    }

    fn look(&self, conn: &mut u64) -> bool {
        *conn != self.dead.load(SeqCst)
    }

    async fn close(&self, _: u64, reason: CloseReason) -> CloseOutcome {
        self.reasons.lock().unwrap().push(reason);
        pass(&self.close_gate).await;
        assert!(!self.panic.load(SeqCst), "as the test asked");
        self.open.fetch_sub(1, SeqCst);
        CloseOutcome::Ended
    }
}

struct Bench {
    fake: Arc<Fake>,
    pool: Pool<Fake>,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn settings(size: u32) -> Settings {
    Settings { size, max_overflow: Some(0), pre_ping: false, recycle: None, ..Settings::default() }
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let fake = Fake::new();
        let pool = Pool::new(fake.clone(), Config::new(settings).unwrap());
        let stop = CancellationToken::new();
        let (run, token) = (pool.clone(), stop.clone());
        tokio::spawn(async move { run.run(token).await });
        Self { fake, pool, stop }
    }

    fn ask(&self) -> Checkout<Fake> {
        self.pool.checkout('a', clock())
    }

    async fn lend(&self) -> Lease<Fake> {
        self.ask().await.unwrap()
    }

    fn set(&self, settings: Settings) {
        self.pool.reconfigure(Config::new(settings).unwrap(), Replace::Keep);
    }

    /// idle, in use, connecting, closing, waiting
    fn now(&self) -> [u32; 5] {
        let stats = self.pool.stats();
        [stats.idle, stats.in_use, stats.connecting, stats.closing, stats.waiting]
    }

    /// What it should be after whatever happened: one more can be lent than were, and the tables are empty.
    async fn nothing_leaked(&self, size: u32) {
        settle().await;
        let leases: Vec<_> = {
            let mut leases = Vec::new();
            for _ in 0..size {
                leases.push(timeout(Duration::from_secs(60), self.ask()).await.unwrap().unwrap());
            }
            leases
        };
        assert_eq!(self.now(), [0, size, 0, 0, 0]);
        for lease in leases {
            lease.give_back(clock());
        }
        let state = self.pool.0.lock();
        assert_eq!(state.free_waiters.len(), state.waiters.len(), "every place is free again");
        assert!(state.waiters.iter().all(|waiter| matches!(waiter, Wait::Free)));
        assert_eq!(state.conns.iter().flatten().count(), self.fake.open.load(SeqCst) as usize);
    }
}

/// Lets every task run as far as it can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(noop_waker_ref()))
}

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

// One test per point at which a client can leave.

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

fn pinging(size: u32) -> Settings {
    Settings { pre_ping: true, ping_after: Duration::ZERO, ..settings(size) }
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
    assert_eq!(b.fake.reasons(), [CloseReason::Disconnected, CloseReason::Invalidated, CloseReason::Abandoned][..2]);
    b.pool.invalidate();
    b.nothing_leaked(2).await;
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
    assert!(one.poll_end(&mut cx).is_pending() && one.poll_end(&mut cx).is_pending());
    let woken = tokio::spawn(async move {
        poll_fn(|cx| two.poll_end(cx)).await;
        two
    });
    settle().await;
    b.set(shrink(1));
    advance(Duration::from_secs(4)).await;
    settle().await;
    assert!(!woken.is_finished());
    let mut two = woken.await.unwrap();
    assert!(one.poll_end(&mut cx).is_ready());
    assert!(one.claim_end() && !one.claim_end());
    assert!(!two.claim_end() && two.poll_end(&mut cx).is_pending(), "one was enough");
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

#[test]
fn a_lease_dropped_outside_of_any_runtime_is_closed_by_the_keeper() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let b = runtime.block_on(async { Bench::new(settings(1)) });
    let lease = runtime.block_on(b.lend());
    drop(lease);
    assert_eq!(b.pool.stats().closing, 1);
    runtime.block_on(b.nothing_leaked(1));
    assert_eq!(b.fake.reasons(), [CloseReason::Abandoned]);
}

#[test]
fn clients_of_several_runtimes_share_a_pool() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let b = runtime.block_on(async { Bench::new(settings(3)) });
    let inside = Arc::new(AtomicU32::new(0));
    let (over, done) = tokio::sync::oneshot::channel::<()>();
    let keeper = std::thread::spawn(move || drop(runtime.block_on(done)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (pool, inside) = (b.pool.clone(), inside.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    for n in 0..2000 {
                        let lease = pool.checkout('a', clock()).await.unwrap();
                        assert!(inside.fetch_add(1, SeqCst) < 3);
                        if n % 7 == 0 {
                            tokio::task::yield_now().await;
                        }
                        inside.fetch_sub(1, SeqCst);
                        match n % 50 {
                            0 => lease.discard(CloseReason::Protocol),
                            1 => drop(lease),
                            _ => lease.give_back(clock()),
                        }
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let _ = over.send(());
    keeper.join().unwrap();
    assert!(b.fake.most_open.load(SeqCst) <= 3);
    assert_eq!(b.pool.stats().in_use, 0);
}
