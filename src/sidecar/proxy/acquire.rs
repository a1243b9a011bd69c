//! Waits for a server, as long as the client does.

use std::future::{Future, poll_fn};
use std::num::NonZeroU64;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::client::Wants;
use super::{Serving, buffer};
use crate::pg::connect::ConnectError;
use crate::pg::error::SqlState;
use crate::pg::message::Severity;
use crate::pool::{CheckoutError, Lease};
use crate::sidecar::backend::PgBackend;
use crate::sidecar::clients::{Activity, signal};

/// How waiting for a server ended.
pub(super) enum Waited {
    /// The pool has decided.
    Done(Result<Lease<PgBackend>, CheckoutError<ConnectError>>),
    /// A cancel request, or the sidecar's end.
    CalledOff,
    /// The client closed its connection: there is nobody to tell anything.
    Left,
}

/// What became of the wish for a server.
pub(super) enum Acquired {
    /// A server, and when it came.
    Lease(Lease<PgBackend>, Instant),
    /// The client was told why not, and stays.
    Refused,
    /// The client has left or was told to.
    Gone,
}

impl Serving {
    /// A server, if one is there: the path of a query.
    pub(super) fn acquire_now(&mut self, asked: Instant) -> Option<Lease<PgBackend>> {
        if self.settings.version != self.database.version() {
            self.settings = self.database.settings();
        }
        // One that came between the last wait and its lease was for what is over.
        self.client.shared.clear(signal::CANCEL);
        let lease = self.database.pool.checkout_again(&self.set, self.last.map(NonZeroU64::get), asked)?;
        self.stats().acquire.observe(Duration::ZERO);
        Some(lease)
    }

    /// Waits for a server; meanwhile the client may leave, cancel, or be ended.
    pub(super) async fn acquire(&mut self, asked: Instant) -> Acquired {
        match self.wait(asked).await {
            Waited::Done(Ok(lease)) => {
                // Nobody waits for the clock who did not wait for a server.
                let waited = self.client.shared.activity() == Activity::Waiting;
                let lent = if waited { Instant::now() } else { asked };
                self.stats().acquire.observe(lent.saturating_duration_since(asked));
                self.client.shared.clear(signal::CANCEL);
                Acquired::Lease(lease, lent)
            }
            Waited::Done(Err(error)) => Box::pin(self.refused(error)).await,
            Waited::CalledOff => Box::pin(self.called_off()).await,
            Waited::Left => Acquired::Gone,
        }
    }

    /// Waits until the pool has decided, or the client has left or been called off.
    pub(super) async fn wait(&mut self, asked: Instant) -> Waited {
        let mut checkout = pin!(self.database.pool.checkout(self.set.clone(), asked));
        let client = &mut self.client;
        poll_fn(|cx| {
            if let Poll::Ready(result) = checkout.as_mut().poll(cx) {
                return Poll::Ready(Waited::Done(result));
            }
            client.shared.set_activity(Activity::Waiting);
            client.shared.register(cx.waker());
            if client.shared.signals() & (signal::CANCEL | signal::END) != 0 {
                return Poll::Ready(Waited::CalledOff);
            }
            // Bytes that come meanwhile are kept, as many as one small buffer holds; the end is noticed.
            while client.input.len() < buffer::SMALL {
                match client.poll_read(cx, buffer::SMALL) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Waited::Left),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn refused(&mut self, error: CheckoutError<ConnectError>) -> Acquired {
        self.client.shared.set_activity(Activity::Idle);
        self.stats().own_errors.inc();
        let (code, text) = describe(&error);
        if matches!(error, CheckoutError::Closed) {
            self.client.say_error(Severity::Fatal, code, &text);
            self.say_last().await;
            return Acquired::Gone;
        }
        self.client.refuse(code, &text);
        Acquired::Refused
    }

    async fn called_off(&mut self) -> Acquired {
        self.client.shared.set_activity(Activity::Idle);
        if self.client.shared.signals() & signal::END != 0 {
            self.part(Wants::MustGo { idle: false }).await;
            return Acquired::Gone;
        }
        self.client.shared.clear(signal::CANCEL);
        self.stats().own_errors.inc();
        self.client.refuse(SqlState::QUERY_CANCELED, "canceling statement due to user request");
        Acquired::Refused
    }
}

/// What the client is told when it gets no server.
pub(super) fn describe(error: &CheckoutError<ConnectError>) -> (SqlState, String) {
    match error {
        CheckoutError::Timeout { .. } | CheckoutError::TooManyWaiting { .. } => {
            (SqlState::TOO_MANY_CONNECTIONS, error.to_string())
        }
        CheckoutError::Closed => {
            (SqlState::ADMIN_SHUTDOWN, "terminating connection: the pooler is shutting down".to_owned())
        }
        CheckoutError::Connect(error) => {
            (error.sqlstate.unwrap_or(SqlState::UNABLE_TO_CONNECT), format!("could not connect to the server: {error}"))
        }
        error => (SqlState::CONNECTION_FAILURE, error.to_string()),
    }
}
