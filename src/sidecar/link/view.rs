//! How the link stands, for `/status` and `/metrics`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::{LinkError, Url};
use crate::sidecar::gather::{rfc3339, unix};
use crate::sidecar::status;

/// What is known of the operator beside its configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The highest term that was seen.
    pub term: u64,
    /// The authorities that it said sign its certificates (PEM).
    pub authorities: Option<String>,
}

/// How the link stands; written by the link, read by whoever wants to know.
#[derive(Debug)]
pub struct View {
    url: String,
    memory: watch::Sender<Memory>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the operator said welcome, while the connection stands.
    connected: Option<Instant>,
    /// When that last changed.
    since: SystemTime,
    /// The operator's version, as it said last.
    version: Option<String>,
    error: Option<String>,
    connections: u64,
    failures: u64,
}

impl View {
    /// Not connected yet; `memory` is of an earlier run.
    pub fn new(url: &Url, memory: Memory) -> Self {
        let state = State {
            connected: None,
            since: SystemTime::now(),
            version: None,
            error: None,
            connections: 0,
            failures: 0,
        };
        Self { url: url.to_string(), memory: watch::Sender::new(memory), state: Mutex::new(state) }
    }

    /// The highest term that was seen.
    pub fn term(&self) -> u64 {
        self.memory.borrow().term
    }

    /// What is known, and a way to wait for changes of it.
    pub fn memory(&self) -> watch::Receiver<Memory> {
        self.memory.subscribe()
    }

    /// The operator said which authorities sign its certificates from now on.
    pub fn trust(&self, pem: String) {
        self.memory.send_if_modified(|memory| {
            let changed = memory.authorities.as_ref() != Some(&pem);
            memory.authorities = Some(pem);
            changed
        });
    }

    /// A message of this term has come. False if it is lower than one that was seen.
    pub fn accept(&self, term: u64) -> bool {
        self.memory.send_if_modified(|memory| {
            let is_newer = term > memory.term;
            memory.term = term.max(memory.term);
            is_newer
        });
        term >= self.term()
    }

    /// The operator said welcome.
    pub fn connected(&self, version: &str, now: Instant) {
        let version: String = version.chars().take(100).collect();
        tracing::info!(operator = self.url, version, term = self.term(), "connected to the operator");
        let mut state = self.lock();
        (state.connected, state.since) = (Some(now), SystemTime::now());
        state.version = Some(version);
        state.error = None;
        state.connections += 1;
    }

    /// The connection has ended, or none could be made; for how long there was one.
    pub fn disconnected(&self, error: &LinkError, now: Instant) -> Option<Duration> {
        let error = error.to_string();
        let mut state = self.lock();
        let lasted = state.connected.take().map(|since| now.saturating_duration_since(since));
        state.failures += 1;
        if lasted.is_some() {
            state.since = SystemTime::now();
        }
        // Said once, not at each try.
        if lasted.is_some() || state.error.as_ref() != Some(&error) {
            tracing::warn!(operator = self.url, error, "no connection to the operator; what runs goes on");
        }
        state.error = Some(error);
        lasted
    }

    /// For `/status`.
    pub fn status(&self) -> status::Operator {
        let term = self.term();
        let state = self.lock();
        status::Operator {
            url: self.url.clone(),
            connected: state.connected.is_some(),
            since: rfc3339(state.since),
            since_seconds: unix(state.since),
            term,
            version: state.version.clone(),
            error: state.error.clone(),
            connections: state.connections,
            failures: state.failures,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held in a half-made state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn terms_only_rise() {
        let view = View::new(&"https://a:1".parse().unwrap(), Memory { term: 5, ..Memory::default() });
        let memory = view.memory();
        assert!(!view.accept(4) && view.accept(5) && !memory.has_changed().unwrap());
        assert!(view.accept(9) && !view.accept(8) && memory.borrow().term == 9);
    }

    #[test]
    fn authorities_are_kept() {
        let view = View::new(&"https://a:1".parse().unwrap(), Memory::default());
        let mut memory = view.memory();
        view.trust("one".into());
        assert_eq!(memory.borrow_and_update().authorities.as_deref(), Some("one"));
        view.trust("one".into());
        assert!(!memory.has_changed().unwrap());
    }

    #[test]
    fn connections_come_and_go() {
        let view = View::new(&"https://a:1".parse().unwrap(), Memory::default());
        let now = Instant::now();
        assert_eq!(view.disconnected(&LinkError::Closed, now), None);
        assert_eq!(view.status().error.unwrap(), "the operator closed the connection");
        view.connected("0.1.0", now);
        let status = view.status();
        assert!(status.connected && status.error.is_none() && status.connections == 1);
        assert_eq!(view.disconnected(&LinkError::Closed, now + LASTED), Some(LASTED));
        assert!(!view.status().connected);
    }

    const LASTED: Duration = Duration::from_secs(3);
}
