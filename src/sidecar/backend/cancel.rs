//! Cancel requests for servers: where they go, how many are under way, and that none hits the next client.
//!
//! The path of a query takes no lock for them: a client notes the number of the server that it holds. Whoever cancels
//! first counts the request and then looks whether the client still holds that server; whoever lets go of a server first
//! says so and then looks whether a request is counted. One of the two sees the other.

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use super::QUICK;
use crate::pg::cancel::Limiter;
use crate::pg::connect;

/// Cancel requests under way for one server: one is enough, a second covers a statement that began meanwhile.
const CANCELS_PER_SERVER: u32 = 2;

/// Where a cancel request for one server goes, and how many are under way.
#[derive(Debug)]
pub struct CancelTarget {
    /// Its number among [`Targets`]: never 0, never used twice.
    number: u64,
    pub(super) addr: connect::Addr,
    /// The process id that the server gave.
    pub(super) pid: i32,
    /// Who we are there.
    role: Box<str>,
    key: Vec<u8>,
    under_way: AtomicU32,
    ended: Notify,
}

impl CancelTarget {
    /// Counts a cancel request that is about to be sent. False if there is no key to send (wire-cases 6) or if
    /// enough are under way (wire-cases 4).
    pub fn begin(&self) -> bool {
        let one_more = |n: u32| (n < CANCELS_PER_SERVER).then_some(n + 1);
        !self.key.is_empty() && self.under_way.fetch_update(SeqCst, SeqCst, one_more).is_ok()
    }

    /// Sends a cancel request that [`CancelTarget::begin`] has counted.
    pub async fn send(self: Arc<Self>, limiter: &Limiter) {
        // Armed before the first await: however this ends, the server must become lendable again.
        let sent = Sent(&self);
        let _permit = limiter.acquire().await;
        if let Err(error) = connect::cancel(&self.addr, self.pid, &self.key, QUICK).await {
            tracing::warn!(pid = self.pid, %error, "a cancel request did not reach the server");
        }
        drop(sent);
    }

    /// Whether no cancel request is under way: a statement of the next client can't be hit.
    pub fn is_settled(&self) -> bool {
        self.under_way.load(SeqCst) == 0
    }

    /// Waits until no cancel request is under way.
    pub async fn settled(&self) {
        loop {
            let ended = self.ended.notified();
            if self.is_settled() {
                return;
            }
            ended.await;
        }
    }
}

struct Sent<'a>(&'a CancelTarget);

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
        self.0.ended.notify_waiters();
    }
}

/// The servers of one database that cancel requests may be for.
#[derive(Debug, Default)]
pub struct Targets {
    numbers: AtomicU64,
    open: Mutex<HashMap<u64, Weak<CancelTarget>>>,
}

impl Targets {
    /// A server was opened as this role, which gave this process id and this key.
    pub fn add(&self, addr: connect::Addr, role: &str, pid: i32, key: Vec<u8>) -> Arc<CancelTarget> {
        let number = self.numbers.fetch_add(1, Relaxed) + 1;
        let (under_way, ended) = (AtomicU32::new(0), Notify::new());
        let target = Arc::new(CancelTarget { number, addr, pid, role: role.into(), key, under_way, ended });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Servers are opened seldom: the right moment to forget those that have ended.
        open.retain(|_, target| target.strong_count() > 0);
        open.insert(number, Arc::downgrade(&target));
        target
    }

    /// Whether any server is open as another role.
    pub fn has_other_than(&self, role: &str) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().filter_map(Weak::upgrade).any(|target| *target.role != *role)
    }

    fn get(&self, number: u64) -> Option<Arc<CancelTarget>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&number)?.upgrade()
    }
}

/// The server that one client holds, as a cancel request sees it.
#[derive(Debug)]
pub struct Held {
    targets: Arc<Targets>,
    /// 0: none.
    number: AtomicU64,
}

impl Held {
    /// None yet.
    pub fn new(targets: Arc<Targets>) -> Self {
        Self { targets, number: AtomicU64::new(0) }
    }

    /// From now on a cancel request of this client goes to that server.
    pub fn set(&self, target: &CancelTarget) {
        // What must be seen in order begins with letting go.
        self.number.store(target.number, Release);
    }

    /// From now on a cancel request of this client reaches no server. Ask [`CancelTarget::is_settled`] before another
    /// client gets it (wire-cases 1).
    pub fn clear(&self) {
        self.number.store(0, SeqCst);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.number.load(SeqCst) == 0
    }

    /// The server that a cancel request of this client is for now; it counts as under way.
    pub fn cancel(&self) -> Option<Arc<CancelTarget>> {
        let number = self.number.load(SeqCst);
        let target = self.targets.get(number)?;
        if !target.begin() {
            return None;
        }
        if self.number.load(SeqCst) == number {
            return Some(target);
        }
        // The client has let go of it, and may not have seen the request.
        drop(Sent(&target));
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn target(targets: &Targets) -> Arc<CancelTarget> {
        let addr = connect::Addr::Unix("/nowhere".into());
        targets.add(addr, "app", 1, vec![1, 2, 3, 4])
    }

    #[test]
    fn a_cancel_is_for_the_server_that_is_held() {
        let targets = Arc::new(Targets::default());
        let (a, b) = (target(&targets), target(&targets));
        let held = Held::new(Arc::clone(&targets));
        assert!(held.is_empty() && held.cancel().is_none());
        held.set(&b);
        assert_eq!(held.cancel().unwrap().number, b.number);
        assert!(a.is_settled() && !b.is_settled());
        held.clear();
        assert!(held.cancel().is_none() && held.is_empty());
        drop(Sent(&b));
        assert!(b.is_settled());
    }

    #[test]
    fn a_server_that_has_ended_is_forgotten() {
        let targets = Arc::new(Targets::default());
        let held = Held::new(Arc::clone(&targets));
        let a = target(&targets);
        held.set(&a);
        drop(a);
        assert!(held.cancel().is_none());
        let _b = target(&targets);
        assert_eq!(targets.open.lock().unwrap().len(), 1);
    }

    #[test]
    fn whoever_lets_go_sees_the_request_or_the_request_sees_that() {
        let targets = Arc::new(Targets::default());
        let server = target(&targets);
        let held = Arc::new(Held::new(Arc::clone(&targets)));
        let (go, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let canceller = std::thread::spawn({
            let (held, go, done) = (Arc::clone(&held), Arc::clone(&go), Arc::clone(&done));
            move || {
                for round in 1..=20_000 {
                    while go.load(SeqCst) < round {
                        std::hint::spin_loop();
                    }
                    let sent = held.cancel();
                    // Counted for as long as it is not taken back: the other side must have seen it.
                    done.store(round * 2 + u32::from(sent.is_some()), SeqCst);
                }
            }
        });
        for round in 1..=20_000 {
            held.set(&server);
            go.store(round, SeqCst);
            held.clear();
            let seen = !server.is_settled();
            while done.load(SeqCst) < round * 2 {
                std::hint::spin_loop();
            }
            let sent = done.load(SeqCst) & 1 == 1;
            assert!(seen || !sent, "round {round}: a request is on its way and nobody knows");
            if sent {
                drop(Sent(&server));
            }
            assert!(server.is_settled());
        }
        canceller.join().unwrap();
    }
}
