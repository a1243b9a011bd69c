//! One connection: Hello, Welcome, then configurations down and reports up until it ends.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep_until, timeout};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::report::{Due, Waits, due};
use super::{Link, LinkError, MAX_FILE};
use crate::api::schema;
use crate::contract::{self, GREETING, Hello, MAX_FRAME, PING, Report, SILENCE, ToOperator, ToSidecar, Token};
use crate::sidecar::source;

/// How often is looked whether health or load are of another class: nothing tells of these.
const LOOK: Duration = Duration::from_millis(500);

/// The time, which tests may hold still.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Talks until the connection ends.
pub async fn talk<S>(link: &mut Link, stream: S) -> Result<Infallible, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let codec =
        LengthDelimitedCodec::builder().big_endian().length_field_length(4).max_frame_length(MAX_FRAME).new_codec();
    let now = clock();
    let mut session = Session {
        link,
        frames: Framed::new(stream, codec),
        token: Token::default(),
        looked: now,
        heard: now,
        said: now,
        reported: None,
        waits: Waits::default(),
    };
    match timeout(GREETING, session.greet()).await {
        Ok(greeted) => greeted?,
        Err(_) => return Err(LinkError::Late("the operator's welcome", GREETING)),
    }
    session.serve().await
}

/// A connection at work.
struct Session<'a, S> {
    link: &'a mut Link,
    frames: Framed<S, LengthDelimitedCodec>,
    /// The token that the operator has.
    token: Token,
    /// When its file was looked at last.
    looked: Instant,
    /// When anything was heard last.
    heard: Instant,
    /// When anything was said last.
    said: Instant,
    /// The last report, and when it was told.
    reported: Option<(Report, Instant)>,
    /// How long requests had waited then.
    waits: Waits,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Says who we are and waits to be let in.
    async fn greet(&mut self) -> Result<(), LinkError> {
        self.token = self.read_token()?;
        let hello = Hello {
            contract: contract::VERSION,
            version: concat!(env!("CARGO_PKG_VERSION"), " (", env!("POOLKEEPER_COMMIT"), ")").into(),
            boot: self.link.boot.clone(),
            term: self.link.view.term(),
            fields: schema::fields(),
            token: self.token.clone(),
        };
        self.say(&ToOperator::Hello(Box::new(hello))).await?;
        loop {
            match self.hear().await? {
                ToSidecar::Welcome { term, version } => {
                    if !self.link.view.accept(term) {
                        return Err(LinkError::OldLeader { term, seen: self.link.view.term() });
                    }
                    self.link.view.connected(&version, clock());
                    return Ok(());
                }
                ToSidecar::Refused { reason, message } => return Err(refused(reason, message)),
                ToSidecar::Configuration(_) | ToSidecar::Authorities { .. } | ToSidecar::Ping | ToSidecar::Unknown => {}
            }
        }
    }

    async fn serve(&mut self) -> Result<Infallible, LinkError> {
        let draining = self.link.facts.draining.clone();
        loop {
            // Marked as seen before they are looked at: what changes meanwhile is seen by the next turn.
            self.link.facts.states.mark_unchanged();
            self.link.facts.applied.mark_unchanged();
            let is_draining = draining.is_cancelled();
            let wake = self.upkeep().await?;
            let facts = &mut self.link.facts;
            tokio::select! {
                frame = self.frames.next() => {
                    let message = heard(frame)?;
                    self.heard = clock();
                    self.take(message)?;
                }
                // An error means that the sidecar ends: until it has, there is still something to tell.
                Ok(()) = facts.states.changed() => {}
                Ok(()) = facts.applied.changed() => {}
                () = draining.cancelled(), if !is_draining => {}
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Does what is due, and says when something is due again.
    async fn upkeep(&mut self) -> Result<Instant, LinkError> {
        let now = clock();
        if now.saturating_duration_since(self.heard) >= SILENCE {
            return Err(LinkError::Silent(SILENCE));
        }
        let report = self.link.facts.report(&self.waits, now);
        let mut wake = now + LOOK;
        match due(self.reported.as_ref().map(|(report, at)| (report, *at)), &report, now) {
            Due::Now => {
                self.waits = self.link.facts.waits();
                self.say(&ToOperator::Report(report.clone())).await?;
                self.reported = Some((report, now));
            }
            Due::At(at) => wake = wake.min(at),
            Due::No => {}
        }
        if now.saturating_duration_since(self.looked) >= PING {
            self.looked = now;
            self.renew().await?;
        }
        if now.saturating_duration_since(self.said) >= PING {
            self.say(&ToOperator::Ping).await?;
        }
        Ok(wake.min(self.said + PING).min(self.heard + SILENCE))
    }

    fn take(&mut self, message: ToSidecar) -> Result<(), LinkError> {
        match message {
            ToSidecar::Configuration(configuration) => {
                let term = configuration.term;
                if !self.link.view.accept(term) {
                    return Err(LinkError::OldLeader { term, seen: self.link.view.term() });
                }
                self.link.teller.tell(configuration);
                Ok(())
            }
            ToSidecar::Authorities { pem } => {
                // What can't be used must not take the place of what can.
                match crate::tls::to_operator(&[pem.clone().into_bytes()]) {
                    Ok(_) => self.link.view.trust(pem),
                    Err(error) => tracing::warn!(%error, "the operator's new authorities are passed over"),
                }
                Ok(())
            }
            ToSidecar::Refused { reason, message } => Err(refused(reason, message)),
            ToSidecar::Welcome { .. } | ToSidecar::Ping | ToSidecar::Unknown => Ok(()),
        }
    }

    /// Sends the token if it is another one: the kubelet renews it long before it expires.
    async fn renew(&mut self) -> Result<(), LinkError> {
        // A file that can't be read now can be read before the token expires, or the operator says so.
        let Ok(token) = self.read_token() else { return Ok(()) };
        if token != self.token {
            self.say(&ToOperator::Renew { token: token.clone() }).await?;
            self.token = token;
            tracing::debug!("the token was renewed");
        }
        Ok(())
    }

    fn read_token(&self) -> Result<Token, LinkError> {
        let path = &self.link.options.token;
        let token = source::files::read(path, MAX_FILE).and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| io::Error::other("is no text"))?;
            match text.trim() {
                "" => Err(io::Error::other("is empty")),
                text => Ok(Token::new(text)),
            }
        });
        token.map_err(|error| LinkError::Token(path.clone(), error))
    }

    async fn hear(&mut self) -> Result<ToSidecar, LinkError> {
        let message = heard(self.frames.next().await)?;
        self.heard = clock();
        Ok(message)
    }

    async fn say(&mut self, message: &ToOperator) -> Result<(), LinkError> {
        let bytes = serde_json::to_vec(message)?;
        match timeout(SILENCE, SinkExt::<&[u8]>::send(&mut self.frames, &bytes)).await {
            Ok(sent) => sent?,
            Err(_) => return Err(LinkError::Late("sending", SILENCE)),
        }
        self.said = clock();
        Ok(())
    }
}

fn heard(frame: Option<io::Result<impl AsRef<[u8]>>>) -> Result<ToSidecar, LinkError> {
    let frame = frame.ok_or(LinkError::Closed)?.map_err(|error| match error.kind() {
        // Without a good-bye of TLS: that is how a process dies.
        io::ErrorKind::UnexpectedEof => LinkError::Closed,
        _ => LinkError::Broken(error),
    })?;
    Ok(serde_json::from_slice(frame.as_ref())?)
}

/// The operator's words, made fit for a line of a log.
fn refused(reason: contract::Refusal, message: String) -> LinkError {
    let short: String = message.chars().take(300).collect();
    LinkError::Refused(reason, crate::telemetry::escape(&short))
}
