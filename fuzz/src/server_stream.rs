//! Any bytes of a server, while a client waits for answers.

use poolkeeper::pg::exchange::OutOfStep;
use poolkeeper::pg::frame;
use poolkeeper::pg::message::{self, Authentication, ErrorFields, cstr, read_backend_key_data, read_parameter_status};
use poolkeeper::sidecar::proxy::egress::Seen;

use super::postgres::Luck;
use super::streams::Pair;

/// The first byte is how the pool is set up, the second what the client has asked for and the sizes of reads; then the
/// server's bytes.
pub fn run(data: &[u8]) {
    let [flags, seed, server @ ..] = data else { return };
    read_alone(server);
    let asked = requests(&mut Luck::new(*seed));
    let whole = hear(*flags, &asked, server, None);
    let parts = hear(*flags, &asked, server, Some(Luck::new(seed.wrapping_add(1))));
    assert_eq!(whole, parts, "the sizes of reads make a difference");
    check(&whole, server);
}

/// What is known after all that a server said.
#[derive(Debug, PartialEq)]
struct Heard {
    got: Vec<u8>,
    seen: Option<Seen>,
    error: Option<OutOfStep>,
    status: u8,
    free: bool,
    told: (bool, bool, bool),
}

fn hear(flags: u8, asked: &[u8], mut server: &[u8], mut luck: Option<Luck>) -> Heard {
    let mut pair = Pair::new(flags);
    let _ = pair.client_sends(asked);
    let (mut got, mut seen, mut error) = (pair.own_answers(), Seen::default(), None);
    while !server.is_empty() && error.is_none() && !seen.refused {
        let n = luck.as_mut().map_or(server.len(), |luck| 1 + luck.below(server.len().min(40)));
        match pair.server_sends(&server[..n]) {
            Ok((more, also)) => {
                got.extend(more);
                seen.ready += also.ready;
                seen.ended += also.ended;
                seen.refused |= also.refused;
            }
            Err((more, out_of_step)) => {
                got.extend(more);
                error = Some(out_of_step);
            }
        }
        server = &server[n..];
    }
    let (status, free) = (pair.exchange.status(), pair.exchange.is_free());
    // After an error nobody asks what else was seen.
    let seen = error.is_none().then_some(seen);
    Heard { got, seen, error, status, free, told: pair.told() }
}

/// The client gets messages of the server's, in their order, and the pooler's own `1` and `3`; nothing after an error.
fn check(heard: &Heard, server: &[u8]) {
    let mut rest = server;
    let mut got = &heard.got[..];
    loop {
        match frame::header(got) {
            Ok(None) => return assert!(rest.ends_with(got), "bytes from nowhere: {got:?}"),
            Err(error) => panic!("the client gets {error}"),
            Ok(Some(header)) => {
                let message = &got[..header.total().min(got.len())];
                let own = matches!(message, [b'1' | b'3', 0, 0, 0, 4]);
                match find(rest, message) {
                    Some(after) => rest = after,
                    None => assert!(own, "nobody sent {message:?}"),
                }
                got = &got[message.len()..];
            }
        }
    }
}

/// What follows `message` in the server's stream, if it is a message there (the last one may be cut).
fn find<'a>(mut stream: &'a [u8], message: &[u8]) -> Option<&'a [u8]> {
    while let Ok(Some(header)) = frame::header(stream) {
        let end = header.total().min(stream.len());
        if &stream[..end] == message {
            return Some(&stream[end..]);
        }
        stream = &stream[end..];
    }
    None
}

/// What a client may have asked for by now.
fn requests(luck: &mut Luck) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..luck.below(6) {
        let name: &[u8] = [&b""[..], b"a", b"b"][luck.below(3)];
        match luck.below(9) {
            0 | 1 => message::query(&mut out, "select 1"),
            2 => message::parse(&mut out, name, b"select 2", b"\0\0"),
            3 => message::frame(&mut out, b'B', |out| {
                cstr(out, b"");
                cstr(out, name);
                out.extend([0; 6]);
            }),
            4 => message::frame(&mut out, b'E', |out| out.extend([0; 5])),
            5 => message::frame(&mut out, b'D', |out| {
                out.push(b'S');
                cstr(out, name);
            }),
            6 => message::close_statement(&mut out, name),
            7 => message::frame(&mut out, b'F', |out| out.extend([0; 10])),
            _ => message::sync(&mut out),
        }
    }
    if luck.below(3) > 0 {
        message::sync(&mut out);
    }
    out
}

/// The parsers of single messages, which a login and the health query use, too.
fn read_alone(body: &[u8]) {
    if let Some(fields) = ErrorFields::parse(body) {
        let held = fields.message.len() + fields.detail.len() + fields.hint.len();
        // A byte that is not UTF-8 becomes three.
        assert!(held <= 3 * body.len());
        let _ = fields.sqlstate();
    }
    if let Some(Authentication::Sasl(mechanisms)) = Authentication::parse(body) {
        assert!(mechanisms.len() <= 16);
    }
    if let Some((name, value)) = read_parameter_status(body) {
        assert!(name.len() + value.len() + 2 <= body.len());
    }
    if let Some((_, key)) = read_backend_key_data(body) {
        assert!(key.len() <= 256);
    }
}
