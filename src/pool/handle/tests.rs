//! The pool against a fake database on paused time: each await point left, each task lost.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures_util::task::noop_waker_ref;
use tokio::sync::Semaphore;
use tokio::time::{advance, timeout};

use super::*;
use crate::pool::CloseReason;
use crate::pool::backend::{CloseOutcome, PingError};
use crate::pool::checkout::{CheckoutError, Lease};
use crate::pool::config::{Order, Settings};

/// A database whose every answer waits for its gate, if the gate is shut.
struct Fake {
    connect_gate: Semaphore,
    ping_gate: Semaphore,
    close_gate: Semaphore,
    /// Whether connects fail.
    refuse: AtomicBool,
    /// Whether closing ends by its deadline.
    stuck: AtomicBool,
    /// Each answer takes up to so many milliseconds.
    slow: AtomicU64,
    asked: AtomicU64,
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
            stuck: AtomicBool::new(false),
            slow: AtomicU64::new(0),
            asked: AtomicU64::new(0),
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

    /// Until it may answer.
    async fn pass(&self, gate: &Semaphore) {
        drop(gate.acquire().await.unwrap());
        let slow = self.slow.load(SeqCst);
        if slow > 0 {
            let takes = self.asked.fetch_add(1, SeqCst).wrapping_mul(0x9E37_79B9) % slow;
            tokio::time::sleep(Duration::from_millis(takes)).await;
        }
    }

    fn reasons(&self) -> Vec<CloseReason> {
        self.reasons.lock().unwrap().clone()
    }
}

fn shut(gate: &Semaphore) {
    assert_eq!(gate.forget_permits(OPEN), OPEN);
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
        self.pass(&self.connect_gate).await;
        assert!(!self.panic.load(SeqCst), "as the test asked");
        if self.refuse.load(SeqCst) {
            self.open.fetch_sub(1, SeqCst);
            return Err("refused");
        }
        Ok(self.next.fetch_add(1, SeqCst))
    }

    async fn ping(&self, _: &mut u64) -> Result<(), PingError<&'static str>> {
        self.pings.fetch_add(1, SeqCst);
        self.pass(&self.ping_gate).await;
        assert!(!self.panic.load(SeqCst), "as the test asked");
        self.ping.lock().unwrap().clone()
    }

    fn look(&self, conn: &mut u64) -> Result<(), CloseReason> {
        if *conn == self.dead.load(SeqCst) { Err(CloseReason::Disconnected) } else { Ok(()) }
    }

    async fn close(&self, _: u64, reason: CloseReason) -> CloseOutcome {
        self.reasons.lock().unwrap().push(reason);
        self.pass(&self.close_gate).await;
        assert!(!self.panic.load(SeqCst), "as the test asked");
        self.open.fetch_sub(1, SeqCst);
        if self.stuck.load(SeqCst) { CloseOutcome::Deadline } else { CloseOutcome::Ended }
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
        // On paused time a test that waits for what never comes would go on for ever: after a day it is over.
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
            eprintln!("a test waits for what never comes");
            std::process::exit(101);
        });
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
        // What is being closed or opened comes to its end.
        let end = || tokio::time::sleep(Duration::from_millis(100));
        end().await;
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
        end().await;
        assert!(self.pool.0.lock().is_tidy(self.fake.open.load(SeqCst) as usize));
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

fn pinging(size: u32) -> Settings {
    Settings { pre_ping: true, ping_after: Duration::ZERO, ..settings(size) }
}

mod crowd;
mod leaving;
mod life;
