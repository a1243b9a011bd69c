//! What is to be reconciled, and when: each item once however often it is asked for, never twice at the same time, later
//! again if it failed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

use super::index::{Changes, Key};

/// Items in work at once.
const AT_ONCE: usize = 16;
/// After the first failure; doubled with each.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// At most.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Reports of many sidecars come together: a policy waits this long for more of them.
const GATHER: Duration = Duration::from_millis(50);

/// Something whose status may be another now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A policy.
    Policy(Key),
    /// A pod.
    Pod(Key),
}

/// What came of an item: when it wants to be looked at again without news, or the next time after a failure.
pub type Outcome = Result<Option<Duration>, ()>;

/// What is asked for and not taken up yet.
#[derive(Debug, Default)]
pub struct Queue {
    asked: Mutex<BTreeMap<Item, Duration>>,
    news: Notify,
}

impl Queue {
    /// Asks for an item after that time, or earlier if it was asked for earlier.
    pub fn add(&self, item: Item, after: Duration) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = asked.entry(item).or_insert(after);
        *due = after.min(*due);
        drop(asked);
        self.news.notify_one();
    }

    /// Asks for everything that changed.
    pub fn add_changes(&self, changes: Changes) {
        let Changes { policies, pods } = changes;
        policies.into_iter().for_each(|key| self.add(Item::Policy(key), GATHER));
        pods.into_iter().for_each(|key| self.add(Item::Pod(key), Duration::ZERO));
    }

    /// Passes over whatever is asked for, as long as nobody works: who begins looks at everything.
    pub async fn discard(&self) -> std::convert::Infallible {
        loop {
            self.news.notified().await;
            self.take();
        }
    }

    fn take(&self) -> BTreeMap<Item, Duration> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Works until told to stop.
    pub async fn run<F, W>(&self, reconcile: F, stop: CancellationToken)
    where
        F: Fn(Item) -> W,
        W: Future<Output = Outcome> + Send + 'static,
    {
        let mut work = Work::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.news.notified() => {
                    for (item, after) in self.take() {
                        work.ask(item, after);
                    }
                }
                Some(due) = work.timers.next(), if !work.timers.is_empty() => work.due(due.into_inner()),
                Some(done) = work.tasks.join_next_with_id(), if !work.tasks.is_empty() => work.done(done),
            }
            while let Some(item) = work.next() {
                let task = work.tasks.spawn(reconcile(item.clone()));
                work.running.insert(task.id(), item);
            }
        }
    }
}

/// What the loop knows.
#[derive(Default)]
struct Work {
    timers: DelayQueue<Item>,
    keys: HashMap<Item, (delay_queue::Key, Instant)>,
    ready: VecDeque<Item>,
    is_ready: HashSet<Item>,
    running: HashMap<tokio::task::Id, Item>,
    again: HashMap<Item, Duration>,
    failures: HashMap<Item, u32>,
    tasks: JoinSet<Outcome>,
}

impl Work {
    fn ask(&mut self, item: Item, after: Duration) {
        if self.running.values().any(|running| *running == item) {
            let due = self.again.entry(item).or_insert(after);
            *due = after.min(*due);
            return;
        }
        if self.is_ready.contains(&item) {
            return;
        }
        let at = Instant::now() + after;
        match self.keys.get(&item) {
            Some((_, known)) if *known <= at => {}
            Some((key, _)) => {
                self.timers.reset_at(key, at);
                let key = *key;
                self.keys.insert(item, (key, at));
            }
            None => {
                let key = self.timers.insert_at(item.clone(), at);
                self.keys.insert(item, (key, at));
            }
        }
    }

    fn due(&mut self, item: Item) {
        self.keys.remove(&item);
        self.is_ready.insert(item.clone());
        self.ready.push_back(item);
    }

    fn next(&mut self) -> Option<Item> {
        let item = if self.running.len() < AT_ONCE { self.ready.pop_front() } else { None }?;
        self.is_ready.remove(&item);
        Some(item)
    }

    fn done(&mut self, done: Result<(tokio::task::Id, Outcome), tokio::task::JoinError>) {
        let (id, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "a reconcile has panicked");
                (error.id(), Err(()))
            }
        };
        let Some(item) = self.running.remove(&id) else { return };
        let again = self.again.remove(&item);
        let after = match outcome {
            Ok(after) => {
                self.failures.remove(&item);
                after
            }
            Err(()) => {
                let failures = self.failures.entry(item.clone()).or_default();
                *failures += 1;
                Some(FIRST_RETRY.saturating_mul(1 << (*failures - 1).min(10)).min(LAST_RETRY))
            }
        };
        if let Some(after) = after.into_iter().chain(again).min() {
            self.ask(item, after);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    fn item(name: &str) -> Item {
        Item::Policy(Key::new("shop", name))
    }

    #[tokio::test(start_paused = true)]
    async fn each_once_and_failures_again_later() {
        let (queue, stop) = (Arc::new(Queue::default()), CancellationToken::new());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let begun = Instant::now();
        let work = {
            let seen = Arc::clone(&seen);
            move |item: Item| {
                let seen = Arc::clone(&seen);
                async move {
                    let Item::Policy(key) = item else { panic!() };
                    let mut seen = seen.lock().unwrap();
                    let times = seen.iter().filter(|(name, _)| *name == key.name).count();
                    seen.push((key.name.clone(), begun.elapsed()));
                    match (key.name.as_str(), times) {
                        ("fails", 0..2) => Err(()),
                        ("later", 0) => Ok(Some(Duration::from_secs(9))),
                        _ => Ok(None),
                    }
                }
            }
        };
        let run = tokio::spawn({
            let (queue, stop) = (Arc::clone(&queue), stop.clone());
            async move { queue.run(work, stop).await }
        });
        queue.add(item("slow"), Duration::from_secs(60));
        queue.add(item("slow"), Duration::from_secs(5));
        queue.add(item("slow"), Duration::from_secs(60));
        queue.add(item("fails"), Duration::ZERO);
        queue.add(item("later"), Duration::ZERO);
        tokio::time::sleep(Duration::from_secs(20)).await;
        stop.cancel();
        run.await.unwrap();
        let seen = seen.lock().unwrap().clone();
        let of = |wanted: &str| -> Vec<u64> {
            seen.iter().filter(|(name, _)| name == wanted).map(|(_, at)| at.as_millis() as u64 / 100).collect()
        };
        assert_eq!((of("slow"), of("fails"), of("later")), (vec![50], vec![0, 2, 6], vec![0, 90]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_keeps_nothing() {
        let queue = Queue::default();
        for n in 0..1_000 {
            queue.add(item(&n.to_string()), Duration::ZERO);
            let _ = tokio::time::timeout(Duration::from_millis(1), queue.discard()).await;
        }
        assert!(queue.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn never_twice_at_the_same_time() {
        let (queue, stop) = (Arc::new(Queue::default()), CancellationToken::new());
        let counts = Arc::new([const { AtomicU32::new(0) }; 3]);
        let work = {
            let counts = Arc::clone(&counts);
            move |_: Item| {
                let counts = Arc::clone(&counts);
                async move {
                    let [now, most, all] = &*counts;
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    now.fetch_sub(1, SeqCst);
                    all.fetch_add(1, SeqCst);
                    Ok(None)
                }
            }
        };
        let run = tokio::spawn({
            let (queue, stop) = (Arc::clone(&queue), stop.clone());
            async move { queue.run(work, stop).await }
        });
        for _ in 0..5 {
            queue.add(item("a"), Duration::ZERO);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        stop.cancel();
        run.await.unwrap();
        let [_, most, all] = &*counts;
        assert_eq!((most.load(SeqCst), all.load(SeqCst)), (1, 3));
    }
}
