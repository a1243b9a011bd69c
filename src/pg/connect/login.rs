//! From the StartupMessage to ReadyForQuery. The server may be anybody: everything is bounded.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ConnectError, Phase};
use crate::pg::auth::answer::{Answers, AuthError};
use crate::pg::frame::{self, Frame};
use crate::pg::message::{Authentication, read_backend_key_data, read_parameter_status};
use crate::pg::stream::Stream;

/// The longest message that is read during a login, in bytes. PostgreSQL's are shorter than 1 kB, but for errors.
const MAX_MESSAGE: usize = 64 << 10;
/// What a whole login may amount to, in bytes.
const MAX_LOGIN: usize = 1 << 20;
/// How much is asked for at once.
const READ: usize = 4 << 10;

/// What the server told until it was ready.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) key: Option<(i32, Vec<u8>)>,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) leftover: Vec<u8>,
}

/// Sends the StartupMessage `packet` and answers until the server is ready; `phase` says how far it got.
pub(super) async fn login(
    stream: &mut Stream,
    packet: &[u8],
    mut answers: Answers,
    phase: &mut Phase,
) -> Result<Ready, ConnectError> {
    let mut wire = Wire { stream, buf: Vec::new(), at: 0, taken: 0 };
    wire.send(packet, *phase).await?;
    loop {
        let Frame { tag, body } = wire.next(*phase).await?;
        match tag {
            b'R' => {
                let answer = answer(answers, body).await.map_err(|reason| ConnectError::local(*phase, reason))?;
                if answer.done {
                    break;
                }
                answers = answer.answers;
                wire.send(&answer.out, *phase).await?;
            }
            b'E' => return Err(ConnectError::refused(*phase, body)),
            // A notice, or what is not understood of our StartupMessage: nothing that we need.
            b'N' | b'v' => {}
            _ => return Err(unexpected(*phase, tag)),
        }
    }
    *phase = Phase::Startup;
    let mut ready = Ready::default();
    loop {
        let Frame { tag, body } = wire.next(*phase).await?;
        match tag {
            b'S' => {
                // One that can't be read (a value in another encoding than UTF-8) is as good as not reported.
                let Some((name, value)) = read_parameter_status(body) else { continue };
                match ready.parameters.iter_mut().find(|(have, _)| have == name) {
                    Some((_, have)) => value.clone_into(have),
                    None => ready.parameters.push((name.to_owned(), value.to_owned())),
                }
            }
            b'K' => {
                let (pid, key) = read_backend_key_data(body).ok_or_else(|| unexpected(*phase, tag))?;
                ready.key = Some((pid, key.to_vec()));
            }
            b'Z' if body == b"I" => break,
            b'E' => return Err(ConnectError::refused(*phase, body)),
            b'N' | b'v' => {}
            _ => return Err(unexpected(*phase, tag)),
        }
    }
    ready.leftover = wire.buf.split_off(wire.at);
    match unasked(&ready.leftover) {
        Some(tag) => Err(unexpected(*phase, tag)),
        None => Ok(ready),
    }
}

/// The first message behind ReadyForQuery that a server may not send unasked: the first client would take it, or what
/// it shifts, for an answer.
fn unasked(mut rest: &[u8]) -> Option<u8> {
    while let Some(tag) = rest.first() {
        if !matches!(tag, b'N' | b'S') {
            return Some(*tag);
        }
        match frame::header(rest) {
            Ok(Some(header)) => rest = rest.get(header.total()..).unwrap_or_default(),
            Ok(None) => break,
            Err(_) => return Some(*tag),
        }
    }
    None
}

fn unexpected(phase: Phase, tag: u8) -> ConnectError {
    ConnectError::local(phase, format!("unexpected or malformed message '{}' of the server", tag.escape_ascii()))
}

struct Answer {
    answers: Answers,
    out: Vec<u8>,
    done: bool,
}

async fn answer(answers: Answers, body: &[u8]) -> Result<Answer, String> {
    fn run(mut answers: Answers, body: &[u8]) -> Result<Answer, AuthError> {
        let request = Authentication::parse(body).ok_or(AuthError::Order)?;
        let mut out = Vec::new();
        let done = answers.answer(request, &mut out)?;
        Ok(Answer { answers, out, done })
    }
    let answer = if Authentication::parse(body).is_some_and(|request| answers.is_costly(&request)) {
        // Thousands of hashes: not on the thread that carries everybody's queries.
        let body = body.to_vec();
        let work = tokio::task::spawn_blocking(move || run(answers, &body));
        work.await.map_err(|error| format!("SCRAM was not computed: {error}"))?
    } else {
        run(answers, body)
    };
    answer.map_err(|error| error.to_string())
}

/// A stream and what has been read from it.
struct Wire<'a> {
    stream: &'a mut Stream,
    buf: Vec<u8>,
    /// Where the next frame begins.
    at: usize,
    /// Bytes of all frames so far.
    taken: usize,
}

impl Wire<'_> {
    async fn send(&mut self, bytes: &[u8], phase: Phase) -> Result<(), ConnectError> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| lost(phase, &error.to_string()))
    }

    /// The next frame.
    async fn next(&mut self, phase: Phase) -> Result<Frame<'_>, ConnectError> {
        let total = loop {
            if let Some(total) = self.whole(phase)? {
                break total;
            }
            self.buf.drain(..self.at);
            self.at = 0;
            self.buf.reserve(READ);
            match self.stream.read_buf(&mut self.buf).await {
                Ok(0) => return Err(lost(phase, "it closed the connection")),
                Ok(_) => {}
                Err(error) => return Err(lost(phase, &error.to_string())),
            }
        };
        let start = self.at;
        self.at += total;
        self.taken += total;
        let bytes = self.buf.get(start..self.at).unwrap_or_default();
        // It is whole: that is what was just found.
        frame::whole(bytes).ok().flatten().ok_or_else(|| lost(phase, "it sent half a message"))
    }

    /// The length of the frame that is next, if it is there whole.
    fn whole(&self, phase: Phase) -> Result<Option<usize>, ConnectError> {
        let bytes = self.buf.get(self.at..).unwrap_or_default();
        let header = match frame::header(bytes) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(None),
            Err(_) => return Err(self.foreign(phase)),
        };
        if header.body > MAX_MESSAGE {
            return Err(self.foreign(phase));
        } else if self.taken + header.total() > MAX_LOGIN {
            let reason = format!("the server sent more than {MAX_LOGIN} bytes before it was ready");
            return Err(ConnectError::local(phase, reason));
        }
        Ok((bytes.len() >= header.total()).then(|| header.total()))
    }

    /// What came has no length that can be true: something else than PostgreSQL answers there (an HTTP server?), or
    /// it says in its oldest manner why it can't serve. Showing its first words tells which.
    fn foreign(&self, phase: Phase) -> ConnectError {
        let bytes = self.buf.get(self.at..).unwrap_or_default();
        let words = bytes.get(..bytes.len().min(80)).unwrap_or_default().escape_ascii();
        ConnectError::local(phase, format!("what answers is no PostgreSQL server, it said \"{words}\""))
    }
}

fn lost(phase: Phase, reason: &str) -> ConnectError {
    ConnectError::local(phase, format!("the connection to the server was lost during the login: {reason}"))
}
