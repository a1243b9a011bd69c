//! What servers say in place of an answer.

use crate::support::fe;
use crate::support::hostile::{self, Session};
use std::io;
use std::time::Duration;

/// One of them.
pub struct Case {
    /// What it is.
    pub name: &'static str,
    /// Whether the server is known to be out of step by it: closed, and counted as such. What only looks odd to the
    /// client that asked may be passed on to it.
    pub out_of_step: bool,
    /// Nothing more comes: the client gives up soon.
    pub silent: bool,
    /// What is sent.
    pub lie: fn(&mut Session, Vec<Vec<u8>>) -> io::Result<()>,
}

type Send = fn(&mut Session, Vec<Vec<u8>>) -> io::Result<()>;

const fn known(name: &'static str, lie: Send) -> Case {
    Case { name, out_of_step: true, silent: false, lie }
}

const fn odd(name: &'static str, lie: Send) -> Case {
    Case { name, out_of_step: false, silent: false, lie }
}

const fn mute(name: &'static str, lie: Send) -> Case {
    Case { name, out_of_step: false, silent: true, lie }
}

/// The honest answer with something before its last message.
fn with(s: &mut Session, mut honest: Vec<Vec<u8>>, extra: Vec<u8>) -> io::Result<()> {
    honest.insert(honest.len() - 1, extra);
    s.send(&honest)
}

fn error(fields: &[(u8, &str)]) -> Vec<u8> {
    hostile::error(fields)
}

fn end(s: &mut Session) -> io::Result<()> {
    let _ = s.stream.shutdown(std::net::Shutdown::Both);
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// All of them.
pub const ALL: &[Case] = &[
    known("everything twice", |s, honest| {
        s.send(&[honest.concat(), hostile::ready(b'I'), honest.concat(), hostile::ready(b'I')])
    }),
    known("twice, later", |s, honest| {
        s.send(&[honest.concat(), hostile::ready(b'I')])?;
        std::thread::sleep(Duration::from_millis(30));
        s.send(&[honest.concat(), hostile::ready(b'I')])
    }),
    known("ready twice", |s, honest| s.send(&[honest.concat(), hostile::ready(b'I'), hostile::ready(b'I')])),
    known("ready before the answer", |s, honest| {
        s.send(&[hostile::ready(b'I'), honest.concat(), hostile::ready(b'I')])
    }),
    known("backwards", |s, honest| s.send(&honest.into_iter().rev().collect::<Vec<_>>())),
    odd("complete thrice", |s, honest| {
        with(
            s,
            honest,
            [hostile::complete("SELECT 1"), hostile::complete("SELECT 1"), hostile::complete("SELECT 1")].concat(),
        )
    }),
    known("BindComplete unasked", |s, honest| with(s, honest, fe::message(b'2', &[]))),
    known("ParseComplete unasked", |s, honest| with(s, honest, fe::message(b'1', &[]))),
    known("CloseComplete unasked", |s, honest| with(s, honest, fe::message(b'3', &[]))),
    known("ParameterDescription unasked", |s, honest| with(s, honest, fe::message(b't', &[0, 0]))),
    known("FunctionCallResponse unasked", |s, honest| with(s, honest, fe::message(b'V', &[0xff; 4]))),
    known("authentication again", |s, honest| with(s, honest, hostile::authentication(0, &[]))),
    known("a key again", |s, honest| with(s, honest, hostile::key(1, b"key!"))),
    known("an unknown message", |s, honest| with(s, honest, fe::message(b'?', b"what"))),
    known("a message of clients", |s, honest| with(s, honest, fe::query("SELECT 'from the server'"))),
    odd("CopyData without COPY", |s, honest| with(s, honest, fe::copy_data(b"data\n"))),
    known("CopyBoth", |s, honest| with(s, honest, fe::message(b'W', &[0, 0, 0]))),
    known("NegotiateProtocolVersion", |s, honest| with(s, honest, fe::message(b'v', &[0; 8]))),
    known("a length of 3", |s, honest| with(s, honest, vec![b'D', 0, 0, 0, 3])),
    known("a length of 0", |s, honest| with(s, honest, vec![b'D', 0, 0, 0, 0])),
    known("a negative length", |s, honest| with(s, honest, vec![b'D', 0xff, 0xff, 0xff, 0xff])),
    known("ready without a status", |s, _| s.send(&[fe::message(b'Z', &[])])),
    known("ready with a status nobody knows", |s, _| s.send(&[hostile::complete("SELECT 1"), hostile::ready(b'X')])),
    known("ready with a long status", |s, _| s.send(&[hostile::complete("SELECT 1"), fe::message(b'Z', b"IIII")])),
    known("a ready of a megabyte", |s, _| {
        s.send(&[hostile::complete("SELECT 1"), fe::message(b'Z', &vec![b'I'; 1_000_000])])
    }),
    known("a ParameterStatus of a megabyte", |s, honest| {
        with(s, honest, hostile::parameter("x", &"y".repeat(1_000_000)))
    }),
    known("a command tag of a megabyte", |s, honest| with(s, honest, hostile::complete(&"x".repeat(1_000_000)))),
    known("HTTP", |s, _| s.send(&[b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec()])),
    known("ready alone, and the answer later", |s, honest| {
        s.send(&[hostile::ready(b'I')])?;
        std::thread::sleep(Duration::from_millis(30));
        s.send(&[honest.concat(), hostile::ready(b'I')])
    }),
    odd("a row without a description", |s, honest| {
        s.send(&[honest[honest.len() - 2..].concat(), hostile::ready(b'I')])
    }),
    odd("an error without an SQLSTATE", |s, _| {
        s.send(&[error(&[(b'S', "ERROR"), (b'M', "no")]), hostile::ready(b'I')])
    }),
    odd("an error without anything", |s, _| s.send(&[error(&[]), hostile::ready(b'I')])),
    odd("an error that does not end", |s, _| s.send(&[fe::message(b'E', b"SERROR\0C42601"), hostile::ready(b'I')])),
    odd("an empty error", |s, _| s.send(&[fe::message(b'E', &[]), hostile::ready(b'I')])),
    odd("an error of two megabytes", |s, _| {
        s.send(&[error(&[(b'S', "ERROR"), (b'C', "42601"), (b'M', &"x".repeat(2_000_000))]), hostile::ready(b'I')])
    }),
    odd("FATAL, and it goes on", |s, _| {
        s.send(&[error(&[(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "57P01"), (b'M', "bye")]), hostile::ready(b'I')])
    }),
    odd("FATAL without an SQLSTATE, and the end", |s, _| {
        s.send(&[error(&[(b'S', "FATAL"), (b'M', "bye")])])?;
        end(s)
    }),
    odd("a row of the wrong width", |s, honest| with(s, honest, hostile::row(&["a", "b", "c"]))),
    odd("a row cut short inside", |s, honest| with(s, honest, fe::message(b'D', &[0, 9, 0, 0]))),
    odd("a description that is garbage", |s, honest| with(s, honest, fe::message(b'T', &[0xff; 7]))),
    odd("a thousand notices", |s, honest| with(s, honest, fe::message(b'N', b"SNOTICE\0C00000\0Mhi\0\0").repeat(1000))),
    odd("a notification", |s, honest| with(s, honest, fe::message(b'A', b"\0\0\0\x01ch\0payload\0"))),
    odd("a notification cut short", |s, honest| with(s, honest, fe::message(b'A', b"\0"))),
    odd("a ParameterStatus without its value", |s, honest| with(s, honest, fe::message(b'S', b"TimeZone"))),
    odd("in a transaction that nobody began", |s, mut honest| {
        honest.retain(|message| message[0] != b'Z');
        s.send(&[honest.concat(), hostile::ready(b'T')])
    }),
    odd("the end after half a row", |s, honest| {
        s.send(&[honest[0][..honest[0].len() / 2].to_vec()])?;
        end(s)
    }),
    odd("the end at once", |s, _| end(s)),
    odd("the end after the answer", |s, honest| {
        s.send(&honest)?;
        end(s)
    }),
    mute("half a message and silence", |s, honest| s.send(&[honest[0][..honest[0].len() / 2].to_vec()])),
    mute("half a header and silence", |s, _| s.send(&[vec![b'D', 0, 0]])),
    mute("silence", |_, _| Ok(())),
    mute("no ready", |s, mut honest| {
        honest.retain(|message| message[0] != b'Z');
        s.send(&honest)?;
        s.swallow()
    }),
    mute("a row of a gigabyte that never comes", |s, _| s.send(&[vec![b'D', 0x3f, 0xff, 0xff, 0xff, 0, 1]])),
    mute("COPY IN that nobody asked for", |s, _| s.send(&[fe::message(b'G', &[0, 0, 0])])),
    mute("an answer that comes when the client has gone", |s, honest| {
        std::thread::sleep(Duration::from_millis(400));
        s.send(&[honest.concat(), hostile::ready(b'I')])
    }),
    mute("an error that comes when the client has gone", |s, _| {
        std::thread::sleep(Duration::from_millis(400));
        s.send(&[error(&[(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "57014"), (b'M', "late")]), hostile::ready(b'I')])
    }),
];
