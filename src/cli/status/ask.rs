//! One question over HTTP/1.0: the answer ends where the connection ends.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Failure;

/// Longest wait for the sidecar.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const LONGEST: u64 = 256 << 20;

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's status.
    pub code: u16,
    line: String,
    body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of a 200.
    pub fn good(self, address: &str) -> Result<Vec<u8>, Failure> {
        if self.code == 200 { Ok(self.body) } else { Err(self.stranger(address)) }
    }

    /// No sidecar answers so.
    pub fn stranger(&self, address: &str) -> Failure {
        stranger(address, &self.line)
    }
}

fn stranger(address: &str, what: &str) -> Failure {
    Failure::Stranger(address.into(), crate::telemetry::escape(&what.chars().take(100).collect::<String>()))
}

/// Asks for `path` at an address or, if it begins with a slash, at a unix socket.
pub fn get(address: &str, path: &str) -> Result<Answer, Failure> {
    let address = address.trim_start_matches("http://");
    let nobody = |error: io::Error| Failure::Nobody { address: address.into(), error };
    if address.starts_with('/') {
        let stream = UnixStream::connect(address).map_err(nobody)?;
        let patience = Some(PATIENCE);
        stream.set_read_timeout(patience).and_then(|()| stream.set_write_timeout(patience)).map_err(nobody)?;
        let answer = exchange(stream, "localhost", path).map_err(nobody)?;
        return read(address, &answer);
    }
    let address = address.trim_end_matches('/');
    let resolved = address.to_socket_addrs().map_err(|_| Failure::Address(address.into()))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in resolved {
        let answer = TcpStream::connect_timeout(&candidate, PATIENCE).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            exchange(stream, address, path)
        });
        match answer {
            Ok(answer) => return read(address, &answer),
            Err(error) => last = error,
        }
    }
    Err(Failure::Nobody { address: address.into(), error: last })
}

fn exchange(mut stream: impl Read + Write, host: &str, path: &str) -> io::Result<Vec<u8>> {
    // One write: a server that answers after the first piece and closes would break the pipe under the next.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(answer)
}

fn read(address: &str, answer: &[u8]) -> Result<Answer, Failure> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let head = head.ok_or_else(|| stranger(address, "no HTTP"))?;
    let line = String::from_utf8_lossy(answer[..head].split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
    let code = line.split(' ').nth(1).filter(|_| line.starts_with("HTTP/1.")).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| stranger(address, &line))?;
    Ok(Answer { code, line, body: answer[head + 4..].to_vec() })
}
