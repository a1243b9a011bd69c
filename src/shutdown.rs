//! How the process is asked to end, and to read its configuration again.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The two stages of an end, and the wish to reload; clones share one state.
///
/// SIGTERM or SIGINT once: [`Shutdown::draining`]. Again: [`Shutdown::now`]. SIGHUP: [`Shutdown::reload_asked`].
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    now: CancellationToken,
    reload: Arc<Notify>,
}

impl Shutdown {
    /// Nobody has asked for anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to end: the first call starts draining, the second ends at once.
    pub fn stop(&self) {
        if self.draining.is_cancelled() {
            self.now.cancel();
        } else {
            self.draining.cancel();
        }
    }

    /// Asks to read the configuration again. Several wishes before anybody looks are one.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Cancelled once the process is asked to end.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled once the process is asked to end without waiting for anybody.
    pub fn now(&self) -> &CancellationToken {
        &self.now
    }

    /// Resolves when the configuration shall be read again; for one waiter.
    pub async fn reload_asked(&self) {
        self.reload.notified().await;
    }

    /// Takes SIGTERM, SIGINT and SIGHUP over from the system, from this call on. Needs a runtime with I/O enabled.
    ///
    /// # Errors
    /// When the system refuses to install a handler.
    pub fn catch(&self) -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            shutdown: self.clone(),
        })
    }
}

/// The caught signals: [`Signals::run`] turns them into calls of [`Shutdown`].
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    shutdown: Shutdown,
}

impl Signals {
    /// Passes signals on, until the task that runs it is dropped.
    pub async fn run(mut self) {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    self.shutdown.reload();
                    continue;
                }
            };
            self.shutdown.stop();
            if self.shutdown.now.is_cancelled() {
                tracing::warn!("{name} again: ending at once");
            } else {
                tracing::info!("{name}: draining; a second one ends at once");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_stop_drains_and_the_second_ends() {
        let shutdown = Shutdown::new();
        let seen_elsewhere = shutdown.clone();
        assert!(!seen_elsewhere.draining().is_cancelled());
        shutdown.stop();
        assert!(seen_elsewhere.draining().is_cancelled() && !seen_elsewhere.now().is_cancelled());
        shutdown.stop();
        assert!(seen_elsewhere.now().is_cancelled());
    }

    #[tokio::test]
    async fn a_reload_asked_before_anybody_waits_is_not_lost() {
        let shutdown = Shutdown::new();
        shutdown.reload();
        shutdown.reload();
        shutdown.reload_asked().await;
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), shutdown.reload_asked()).await;
        assert!(again.is_err(), "two wishes before anybody looked are one");
    }

    #[tokio::test]
    async fn signals_arrive() {
        let shutdown = Shutdown::new();
        let task = tokio::spawn(shutdown.catch().unwrap().run());
        let send = |name: &str| {
            let pid = std::process::id().to_string();
            assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
        };
        send("HUP");
        shutdown.reload_asked().await;
        send("TERM");
        shutdown.draining().cancelled().await;
        send("INT");
        shutdown.now().cancelled().await;
        task.abort();
    }
}
