//! The thread that watches files and has them read when they changed.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::info;

use super::loader::{Loader, Reading};
use super::watch::{Signal, Targets, Watch};
use super::{Finding, lock};
use crate::api::resolve::Problem;

/// Between two looks at the files where nothing tells of changes.
const POLL: Duration = Duration::from_secs(2);
/// After a whole change: others of the same save may follow.
const QUIET_WHOLE: Duration = Duration::from_millis(2);
/// Reading waits no longer than this after the first change, whatever follows.
const QUIET_MOST: Duration = Duration::from_millis(40);
/// After a write, until the file is closed: half a policy may well be valid, and be another one. A writer that keeps
/// its file open is not waited for longer.
const OPEN_MOST: Duration = Duration::from_secs(1);
/// What looks wrong is read once more after this, before anybody is told: a file may be in the middle of being saved.
const DOUBT: Duration = Duration::from_millis(100);
/// Doubt ends here even if the file changes on and on.
const DOUBT_MOST: Duration = Duration::from_millis(500);

/// A watch that has begun, before anybody acts on it.
pub struct Prepared {
    watch: Watch,
    signals: Sender<Signal>,
    received: Receiver<Signal>,
}

impl Prepared {
    /// From now on no change of these goes unseen.
    pub fn new(targets: Targets) -> Self {
        let (signals, received) = mpsc::channel();
        Self { watch: Watch::new(targets, signals.clone()), signals, received }
    }

    /// Has what changes read from now on.
    ///
    /// # Errors
    /// That no thread could be started.
    pub fn start(self, loader: Arc<Mutex<Loader>>) -> Result<Watching, Vec<Finding>> {
        let Self { watch, signals, received } = self;
        let thread =
            std::thread::Builder::new().name("configuration".into()).spawn(move || run(watch, &loader, &received));
        let thread = thread.map_err(|error| {
            let problem = Problem::new("", format!("the thread that watches it cannot be started: {error}"));
            vec![Finding::new("configuration", problem)]
        })?;
        Ok(Watching { signals, thread: Some(thread) })
    }
}

/// The thread at work; dropped, it ends.
#[derive(Debug)]
pub struct Watching {
    signals: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Reads everything once more.
    pub fn reload(&self) {
        // Without a receiver the thread has ended, and the process is about to.
        let _ = self.signals.send(Signal::Reload);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.signals.send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for changes and applies them, until told to stop.
fn run(mut watch: Watch, loader: &Mutex<Loader>, signals: &Receiver<Signal>) {
    loop {
        let first = match signals.recv_timeout(POLL) {
            Ok(signal) => signal,
            Err(RecvTimeoutError::Timeout) if watch.update() => Signal::Touched { whole: true },
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let since = Instant::now();
        let Some(forced) = settle(first, since, signals) else { return };
        let Some(read) = read(&mut watch, loader, since, signals) else { return };
        let changed = lock(loader).apply(read, Instant::now());
        if forced && !changed {
            info!("configuration read again: nothing changed");
        }
    }
}

/// Reads everything; what looks wrong is read again until it stays the same. `None` to stop.
fn read(watch: &mut Watch, loader: &Mutex<Loader>, since: Instant, signals: &Receiver<Signal>) -> Option<Reading> {
    // Looking comes before reading: what changes in between is seen by the next look.
    watch.update();
    let mut read = lock(loader).read(Instant::now());
    while lock(loader).is_doubtful(&read) && since.elapsed() < DOUBT_MOST {
        match signals.recv_timeout(DOUBT) {
            Ok(signal) => _ = settle(signal, Instant::now(), signals)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        watch.update();
        let again = lock(loader).read(Instant::now());
        let same = again == read;
        read = again;
        if same {
            break;
        }
    }
    Some(read)
}

/// Waits until the change that `first` tells of seems whole. Whether a reload was asked for; `None` to stop.
fn settle(first: Signal, since: Instant, signals: &Receiver<Signal>) -> Option<bool> {
    let (mut signal, mut forced) = (first, false);
    loop {
        let (quiet, most) = match signal {
            Signal::Stop => return None,
            Signal::Reload => {
                forced = true;
                (Duration::ZERO, QUIET_MOST)
            }
            Signal::Touched { whole: true } => (QUIET_WHOLE, QUIET_MOST),
            Signal::Touched { whole: false } => (OPEN_MOST, OPEN_MOST),
        };
        let left = most.saturating_sub(since.elapsed());
        match signals.recv_timeout(quiet.min(left)) {
            Ok(next) => signal = next,
            Err(RecvTimeoutError::Timeout) => return Some(forced),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}
