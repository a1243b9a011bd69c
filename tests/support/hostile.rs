//! A PostgreSQL that does what a test tells it to: servers that lie, stall or break off.

use super::fe;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What fake servers saw, in order; clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    /// Adds an event.
    pub fn note(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }

    /// Whether it has happened.
    pub fn saw(&self, what: &str) -> bool {
        self.0.lock().unwrap().iter().any(|event| event == what)
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// All of them so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A fake server; each connection runs the test's script in a thread of its own.
pub struct Server {
    /// Its port.
    pub port: u16,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Listens on a port of 127.0.0.1; `script` gets every connection with its number (from 0). A script that returns an
    /// error (a broken pipe, mostly) just ends its connection.
    pub fn start(script: impl Fn(&mut Session, usize) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1", 0, script)
    }

    /// The same at another loopback address; port 0 is any free one.
    pub fn start_at(
        address: &str,
        port: u16,
        script: impl Fn(&mut Session, usize) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let script = Arc::new(script);
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&accepted));
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let number = count.fetch_add(1, Ordering::SeqCst);
                        let script = Arc::clone(&script);
                        stream.set_nonblocking(false).unwrap();
                        stream.set_nodelay(true).unwrap();
                        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                        thread::spawn(move || {
                            let mut session = Session { stream, pending: vec![], cancelled: None, minor: 0 };
                            let _ = script(&mut session, number);
                        });
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { port, stop, accepted }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One connection, seen from the server.
pub struct Session {
    /// The socket, for whatever has no function here.
    pub stream: TcpStream,
    /// Set by [`Self::startup`] when the connection was a CancelRequest: its process id and key.
    pub cancelled: Option<(u32, Vec<u8>)>,
    /// The protocol's minor version that [`Self::startup`] was asked for.
    pub minor: u16,
    pending: Vec<u8>,
}

impl Session {
    /// Sends bytes.
    pub fn send(&mut self, messages: &[Vec<u8>]) -> io::Result<()> {
        self.stream.write_all(&messages.concat())
    }

    fn take(&mut self, n: usize) -> io::Result<Vec<u8>> {
        let mut chunk = [0; 16384];
        while self.pending.len() < n {
            let got = self.stream.read(&mut chunk)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.pending.extend_from_slice(&chunk[..got]);
        }
        Ok(self.pending.drain(..n).collect())
    }

    /// The client's startup parameters; TLS and GSS are answered with N. A CancelRequest is kept in
    /// `cancelled` and ends the script.
    pub fn startup(&mut self) -> io::Result<BTreeMap<String, String>> {
        loop {
            let length = u32::from_be_bytes(self.take(4)?.try_into().unwrap());
            let body = self.take(usize::try_from(length).unwrap() - 4)?;
            let code = u32::from_be_bytes(body[..4].try_into().unwrap());
            match code {
                80_877_103 | 80_877_104 => self.stream.write_all(b"N")?,
                80_877_102 => {
                    let pid = u32::from_be_bytes(body[4..8].try_into().unwrap());
                    self.cancelled = Some((pid, body[8..].to_vec()));
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                _ => {
                    self.minor = u16::from_be_bytes([body[2], body[3]]);
                    let text = String::from_utf8_lossy(&body[4..]).into_owned();
                    let parts: Vec<_> = text.split('\0').collect();
                    let pairs = parts.chunks_exact(2).filter(|pair| !pair[0].is_empty());
                    return Ok(pairs.map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect());
                }
            }
        }
    }

    /// A whole login without a password: startup, AuthenticationOk, parameters, key, ReadyForQuery.
    pub fn login(&mut self) -> io::Result<BTreeMap<String, String>> {
        let parameters = self.startup()?;
        self.send(&[authentication(0, &[])])?;
        self.send(&[usual_parameters(), key(4242, b"\x01\x02\x03\x04"), ready(b'I')])?;
        Ok(parameters)
    }

    /// The next message: tag and body.
    pub fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let head = self.take(5)?;
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        Ok((head[0], self.take(usize::try_from(length).unwrap() - 4)?))
    }

    /// Answers everything as a server with one idle session would: every query's result is one row
    /// `1`; DISCARD ALL, BEGIN and the like have their tags. Ends with the connection.
    pub fn serve(&mut self) -> io::Result<()> {
        self.serve_with(|_| None)
    }

    /// The same, but first asks `special` about each message's text (of Query and Parse): its bytes
    /// are sent instead of the usual answer.
    pub fn serve_with(&mut self, mut special: impl FnMut(&str) -> Option<Vec<u8>>) -> io::Result<()> {
        loop {
            let (tag, body) = self.message()?;
            if tag == b'X' {
                return Ok(());
            }
            let text = match tag {
                // It has no catalog.
                b'Q' if body.starts_with(b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") => {
                    Some(fe::all(&[error(&[(b'S', "ERROR"), (b'C', "0A000"), (b'M', "no catalog")]), ready(b'I')]))
                }
                b'Q' | b'P' => special(&String::from_utf8_lossy(&body)),
                _ => None,
            };
            let answer = text.unwrap_or_else(|| answer(tag, &body));
            self.stream.write_all(&answer)?;
        }
    }

    /// Reads and forgets until the other side closes.
    pub fn swallow(&mut self) -> io::Result<()> {
        loop {
            self.message()?;
        }
    }
}

/// What [`Session::serve`] answers to one message.
pub fn answer(tag: u8, body: &[u8]) -> Vec<u8> {
    let sql = String::from_utf8_lossy(body).trim_end_matches('\0').trim().trim_end_matches(';').to_uppercase();
    match tag {
        b'Q' if sql.is_empty() => fe::all(&[fe::message(b'I', &[]), ready(b'I')]),
        b'Q' if sql.starts_with("SELECT") => {
            fe::all(&[columns(&["v"]), row(&["1"]), complete("SELECT 1"), ready(b'I')])
        }
        b'Q' => {
            let parts: Vec<_> = sql.split(';').map(|part| complete(part.trim())).collect();
            fe::all(&[parts.concat(), ready(b'I')])
        }
        b'P' => fe::message(b'1', &[]),
        b'B' => fe::message(b'2', &[]),
        b'C' => fe::message(b'3', &[]),
        b'D' if body[0] == b'S' => fe::all(&[fe::message(b't', &[0, 0]), columns(&["v"])]),
        b'D' => columns(&["v"]),
        b'E' => fe::all(&[row(&["1"]), complete("SELECT 1")]),
        b'S' => ready(b'I'),
        _ => vec![],
    }
}

/// An Authentication message.
pub fn authentication(code: u32, data: &[u8]) -> Vec<u8> {
    fe::message(b'R', &[&code.to_be_bytes(), data].concat())
}

/// ReadyForQuery.
pub fn ready(status: u8) -> Vec<u8> {
    fe::message(b'Z', &[status])
}

/// BackendKeyData.
pub fn key(pid: u32, key: &[u8]) -> Vec<u8> {
    fe::message(b'K', &[&pid.to_be_bytes(), key].concat())
}

/// ParameterStatus.
pub fn parameter(name: &str, value: &str) -> Vec<u8> {
    fe::message(b'S', format!("{name}\0{value}\0").as_bytes())
}

/// The ParameterStatus messages of an ordinary login.
pub fn usual_parameters() -> Vec<u8> {
    let usual = [
        ("server_version", "15.0"),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "Etc/UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("in_hot_standby", "off"),
    ];
    fe::all(&usual.map(|(name, value)| parameter(name, value)))
}

/// CommandComplete.
pub fn complete(tag: &str) -> Vec<u8> {
    fe::message(b'C', format!("{tag}\0").as_bytes())
}

/// ErrorResponse with these fields, for instance `[(b'S', "ERROR"), (b'C', "42601")]`.
pub fn error(fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body = vec![];
    for (field, text) in fields {
        body.push(*field);
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    fe::message(b'E', &body)
}

/// RowDescription of text columns.
pub fn columns(names: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
    for name in names {
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    }
    fe::message(b'T', &body)
}

/// DataRow of texts.
pub fn row(values: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    fe::message(b'D', &body)
}
