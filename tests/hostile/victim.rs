//! The client that is lied to, and those that come after it.

use crate::support::{Client, Sidecar, eventually, fe, process};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Query.
    Simple,
    /// Parse to Sync, unnamed.
    Extended,
    /// A named statement, described first.
    Named,
}

/// All of them.
pub const ALL: [How; 3] = [How::Simple, How::Extended, How::Named];

/// The bytes that ask for `value`.
pub fn question(how: How, value: &str) -> Vec<u8> {
    let sql = format!("SELECT '{value}'");
    match how {
        How::Simple => fe::query(&sql),
        How::Extended => fe::extended(&sql, &[]),
        How::Named => [fe::parse("s", &sql, &[]), fe::run("s", &[])].concat(),
    }
}

/// Asks, and takes what comes: up to ReadyForQuery, the end, or for `patience`. Whatever the bytes are, they are taken
/// apart without a complaint: tags and bodies, the last one perhaps cut.
pub fn ask(client: &mut Client, how: How, value: &str, patience: Duration) -> Vec<(char, Vec<u8>)> {
    let _ = client.write(&question(how, value));
    let (end, mut bytes, mut chunk) = (Instant::now() + patience, vec![], [0; 65536]);
    loop {
        let got = apart(&bytes);
        let left = end.saturating_duration_since(Instant::now());
        if got.iter().any(|(tag, _)| *tag == 'Z') || left.is_zero() {
            return got;
        }
        client.socket.set_timeout(left).unwrap();
        match client.socket.read(&mut chunk) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            _ => return apart(&bytes),
        }
    }
}

fn apart(mut bytes: &[u8]) -> Vec<(char, Vec<u8>)> {
    let mut messages = vec![];
    while let Some(header) = bytes.get(..5) {
        let length = u32::from_be_bytes(header[1..].try_into().unwrap());
        let end = usize::try_from(length).unwrap().max(4) + 1;
        let Some(body) = bytes.get(5..end) else { break };
        messages.push((char::from(bytes[0]), body.to_vec()));
        bytes = &bytes[end..];
    }
    messages
}

/// The one value of a row.
pub fn value(body: &[u8]) -> String {
    String::from_utf8_lossy(body.get(6..).unwrap_or(body)).into_owned()
}

/// The same for people.
fn shown(got: &[(char, Vec<u8>)]) -> String {
    got.iter().map(|(tag, body)| format!("{tag} {:.80?} ", String::from_utf8_lossy(body))).collect()
}

/// Clients that ask after a lie, in both protocols: each gets its own answer, whole, and nothing else.
pub fn next_ones(sidecar: &Sidecar, what: &str) -> Result<(), String> {
    for turn in 0..3 {
        let mut client =
            sidecar.connect().open().map_err(|error| format!("{what}: login of the next client: {error:?}"))?;
        for how in ALL {
            let value = format!("{what}, {turn} {how:?}").replace(crate::honest::TRIGGER, "l*e");
            let got = ask(&mut client, how, &value, Duration::from_secs(10));
            let shape: String = got.iter().map(|(tag, _)| *tag).filter(|tag| *tag != 'S').collect();
            let rows: Vec<_> = got.iter().filter(|(tag, _)| *tag == 'D').map(|(_, body)| self::value(body)).collect();
            let expected = match how {
                How::Simple => "TDCZ",
                How::Extended => "12TDCZ",
                How::Named => "12DCZ",
            };
            if rows != [value.as_str()] || shape != expected {
                return Err(format!("{what}: the next client, {turn}, {how:?}, got {}", shown(&got)));
            }
            if how == How::Named {
                client.send(&[fe::close("s"), fe::sync()]);
                while client.message().tag != b'Z' {}
            }
        }
    }
    Ok(())
}

/// Servers closed since the start because they were out of step.
pub fn out_of_step(sidecar: &Sidecar) -> f64 {
    sidecar.metric("poolkeeper_server_connections_closed_total{reason=\"protocol\"}")
}

/// The sidecar runs, has grown by less than `bytes`, and its servers are back.
pub fn is_well(sidecar: &mut Sidecar, before: u64, bytes: u64) {
    assert!(sidecar.runs(), "the sidecar has ended:\n{}", sidecar.log());
    eventually("all servers are back", || sidecar.health()["checked_out"] == 0);
    let grown = process::resident(sidecar.pid()).saturating_sub(before);
    assert!(grown < bytes, "the sidecar has grown by {grown} bytes");
}
