//! Servers on their way from a client to the pool, one of which is wanted.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::pool::Lease;
use crate::sidecar::backend::PgBackend;

/// A place where one server is awaited, or none.
#[derive(Debug, Default)]
pub struct Offers {
    /// To be read without the lock.
    wanted: AtomicBool,
    waiting: Mutex<Option<oneshot::Sender<Lease<PgBackend>>>>,
}

impl Offers {
    /// The next server that is offered. Whoever stops waiting is offered none: it goes on its way to the pool.
    pub async fn next(&self) -> Lease<PgBackend> {
        loop {
            let (sender, receiver) = oneshot::channel();
            *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            self.wanted.store(true, Relaxed);
            if let Ok(lease) = receiver.await {
                return lease;
            }
        }
    }

    /// Whether a server is awaited.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    /// Keeps a server for who waits for one; returns it if nobody does.
    #[cold]
    pub fn take(&self, lease: Lease<PgBackend>) -> Option<Lease<PgBackend>> {
        let sender = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.wanted.store(false, Relaxed);
        match sender {
            Some(sender) => sender.send(lease).err(),
            None => Some(lease),
        }
    }
}
