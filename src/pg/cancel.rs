//! How many cancel requests may be on their way to servers at once (wire-cases 4).

use tokio::sync::{Semaphore, SemaphorePermit};

/// Cancel requests under way at once; a flood waits here and takes no connections from logins.
const AT_ONCE: usize = 16;

/// Bounds the cancel requests under way to one database.
#[derive(Debug)]
pub struct Limiter(Semaphore);

impl Default for Limiter {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Limiter {
    /// Waits for a turn; it ends when the permit is dropped.
    pub async fn acquire(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.0.acquire().await.ok()
    }
}
