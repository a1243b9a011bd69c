//! A client that speaks the protocol's bytes and nothing more, so that a test sees every message.

pub use super::connect::{Binding, Connect, Tls};
pub use super::message::{Message, ServerError};
pub use super::socket::{Address, Socket};
use super::{PATIENCE, fe};
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// A client's connection.
pub struct Client {
    /// The socket; tests may write to it directly.
    pub socket: Socket,
    /// BackendKeyData, if any came.
    pub pid: u32,
    /// The cancel key.
    pub key: Vec<u8>,
    /// The ParameterStatus messages seen, latest last.
    pub parameters: Vec<(String, String)>,
    /// NegotiateProtocolVersion messages: minor version and the options that are not known.
    pub negotiated: Vec<(u32, Vec<String>)>,
    /// Notices of the login: SQLSTATE and text.
    pub notices: Vec<String>,
    address: Address,
    buffer: Vec<u8>,
    timeout: Duration,
    seen: Vec<Message>,
}

impl Client {
    /// A client on a socket that may have spoken TLS but nothing of PostgreSQL yet.
    pub fn new(socket: Socket, address: Address) -> Self {
        let (buffer, seen, timeout) = (vec![], vec![], PATIENCE);
        let (parameters, negotiated, notices) = (vec![], vec![], vec![]);
        Self { socket, pid: 0, key: vec![], parameters, negotiated, notices, address, buffer, timeout, seen }
    }

    /// Bounds every later wait for a message.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// The bound of every wait for a message.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Writes bytes; a broken pipe is returned, for tests of closed connections.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)?;
        self.socket.flush()
    }

    /// Writes messages in one segment.
    #[track_caller]
    pub fn send(&mut self, messages: &[Vec<u8>]) {
        self.write(&messages.concat()).unwrap_or_else(|error| panic!("send: {error}; before: {:?}", self.seen));
    }

    /// The next message: `Ok(None)` at the end of the stream (or a reset), `Err` when time is up.
    pub fn poll_message(&mut self, timeout: Duration) -> Result<Option<Message>, Duration> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(message) = self.buffered() {
                self.seen.push(message.clone());
                return Ok(Some(message));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(timeout);
            }
            self.socket.set_timeout(left).unwrap();
            let mut chunk = [0; 16384];
            match self.socket.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Ok(None),
                },
            }
        }
    }

    fn buffered(&mut self) -> Option<Message> {
        let length = self.buffer.get(1..5)?;
        let length = usize::try_from(u32::from_be_bytes(length.try_into().unwrap())).unwrap();
        assert!((4..1 << 30).contains(&length), "a message of {length} bytes after {:?}", self.seen);
        let body = self.buffer.get(5..=length)?.to_vec();
        let tag = self.buffer[0];
        self.buffer.drain(..=length);
        Some(Message { tag, body })
    }

    /// The next message; a test fails when none comes.
    #[track_caller]
    pub fn message(&mut self) -> Message {
        match self.poll_message(self.timeout) {
            Ok(Some(message)) => message,
            Ok(None) => panic!("the connection was closed after {:?}", self.seen),
            Err(time) => panic!("no message within {time:?} after {:?}", self.seen),
        }
    }

    /// Reads exactly the messages of `pattern`, separated by spaces, and returns them.
    ///
    /// Each is a tag, optionally followed by `:` and what it must hold: `E:42601` (SQLSTATE), `Z:I`
    /// (status), `C:INSERT_0_1` (tag, blanks as `_`), `D:1|~` (columns, `~` is NULL), `d:text`. `D*`
    /// is any number of rows. Notices, ParameterStatus and notifications are passed over unless named.
    #[track_caller]
    pub fn expect(&mut self, pattern: &str) -> Vec<Message> {
        self.seen.clear();
        let mut got = vec![];
        let mut wanted = pattern.split_whitespace().peekable();
        while wanted.peek().is_some() {
            let message = self.message();
            self.note(&message);
            if let Some(tag) = wanted.peek().and_then(|want| want.strip_suffix('*')) {
                if message.tag == tag.as_bytes()[0] {
                    got.push(message);
                    continue;
                }
                if !b"NSA".contains(&message.tag) {
                    wanted.next();
                }
            }
            let want = wanted.peek().copied().unwrap_or_else(|| panic!("{pattern}: then came {:?}", self.seen));
            let (tag, gist) = want.split_once(':').map_or((want, None), |(tag, gist)| (tag, Some(gist)));
            if b"NSA".contains(&message.tag) && message.tag != tag.as_bytes()[0] {
                continue;
            }
            let fits = message.tag == tag.as_bytes()[0] && gist.is_none_or(|gist| gist == message.gist());
            assert!(fits, "expected {pattern}, at {want} came {message:?}; all: {:?}", self.seen);
            if message.tag == b'E' {
                ServerError::of(&message);
            }
            got.push(message);
            wanted.next();
        }
        got
    }

    /// Reads up to the end of the stream; only notices and an error with this SQLSTATE (none: no error
    /// at all) may come before it.
    #[track_caller]
    pub fn expect_end(&mut self, code: Option<&str>) {
        self.seen.clear();
        let mut errors = vec![];
        loop {
            match self.poll_message(self.timeout) {
                Ok(None) => break,
                Ok(Some(message)) if message.tag == b'E' => errors.push(ServerError::of(&message)),
                Ok(Some(message)) if b"NSA".contains(&message.tag) => {}
                Ok(Some(message)) => panic!("expected the end ({code:?}), not {message:?}"),
                Err(time) => panic!("the connection was still open after {time:?}; came: {:?}", self.seen),
            }
        }
        let codes: Vec<_> = errors.iter().map(|error| error.code.as_str()).collect();
        assert_eq!(codes, code.into_iter().collect::<Vec<_>>(), "{errors:?}");
    }

    /// Nothing must come for this long, not even the end.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        match self.poll_message(time) {
            Err(_) => {}
            Ok(message) => panic!("expected silence, came {message:?}"),
        }
    }

    /// One simple query: its rows, or its (last) error. Ends at ReadyForQuery or at the end of the stream.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ServerError> {
        self.seen.clear();
        let lost = |what: String| ServerError { severity: "FATAL".into(), code: "-----".into(), message: what };
        self.write(&fe::query(sql)).map_err(|error| lost(error.to_string()))?;
        let (mut rows, mut failed) = (vec![], None);
        loop {
            match self.poll_message(self.timeout) {
                Ok(Some(message)) => match message.tag {
                    b'D' => rows.push(message.row()),
                    b'E' => failed = Some(ServerError::of(&message)),
                    b'Z' => return failed.map_or(Ok(rows), Err),
                    _ => self.note(&message),
                },
                Ok(None) => return Err(failed.unwrap_or_else(|| lost("the connection was closed".into()))),
                Err(time) => panic!("{sql}: no answer within {time:?} after {:?}", self.seen),
            }
        }
    }

    /// The rows of a query that must succeed.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The one value of a query that must succeed; NULL is an empty text.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
        rows[0][0].clone().unwrap_or_default()
    }

    /// The process id of the server behind this client now.
    #[track_caller]
    pub fn backend(&mut self) -> u32 {
        self.value("SELECT pg_backend_pid()").parse().unwrap()
    }

    /// Shows that the connection is whole: a value known beforehand comes back in both protocols.
    #[track_caller]
    pub fn works(&mut self) {
        self.send(&[fe::query("SELECT 40 + 2")]);
        self.expect("T D:42 C:SELECT_1 Z:I");
        self.send(&[fe::extended("SELECT $1::int + 2", &["41"])]);
        self.expect("1 2 T D:43 C:SELECT_1 Z:I");
    }

    /// The last value of a ParameterStatus.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Cancels this client's running simple query: again and again until an answer comes, since a request that
    /// is faster than its query cancels nothing.
    #[track_caller]
    pub fn cancel_running(&mut self) {
        let end = Instant::now() + self.timeout;
        while self.buffer.is_empty() {
            assert!(Instant::now() < end, "the query was not cancelled");
            self.canceller().send();
            self.socket.set_timeout(Duration::from_millis(300)).unwrap();
            let mut chunk = [0; 4096];
            if let Ok(n) = self.socket.read(&mut chunk) {
                assert!(n > 0, "the connection was closed");
                self.buffer.extend_from_slice(&chunk[..n]);
            }
        }
    }

    /// What another connection needs to cancel this one's query.
    pub fn canceller(&self) -> Canceller {
        Canceller { address: self.address.clone(), pid: self.pid, key: self.key.clone() }
    }

    /// Remembers a ParameterStatus.
    pub fn note(&mut self, message: &Message) {
        if message.tag == b'S' {
            let texts = message.texts();
            self.parameters.push((texts[0].clone(), texts[1].clone()));
        }
    }
}

/// Cancels a client's query from another connection.
#[derive(Debug, Clone)]
pub struct Canceller {
    address: Address,
    /// BackendKeyData's process id.
    pub pid: u32,
    /// BackendKeyData's key.
    pub key: Vec<u8>,
}

impl Canceller {
    /// Sends the request and waits until the server closes; nothing may be answered.
    #[track_caller]
    pub fn send(&self) {
        let mut socket = Socket::open(&self.address).unwrap();
        socket.set_timeout(PATIENCE).unwrap();
        socket.write_all(&fe::cancel(self.pid, &self.key)).unwrap();
        let mut answer = vec![];
        match socket.read_to_end(&mut answer) {
            Ok(_) => assert_eq!(answer, b"", "a cancel request is not answered"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
}
