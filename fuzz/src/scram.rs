//! Logins by SCRAM: our server half against any client, our client half against any server, and the two against each other
//! with somebody in between.

use std::sync::LazyLock;

use poolkeeper::pg::auth::answer::{Answers, AuthError};
use poolkeeper::pg::auth::scram::{Exchange, Salt, Verifier, mechanisms};
use poolkeeper::pg::auth::{SCRAM_SHA_256_PLUS, Secret};
use poolkeeper::pg::message::{Authentication, Reader, authentication_sasl};

const PASSWORD: &str = "correct horse";
/// The hash of both sides' certificate.
const BINDING: &[u8] = b"0123456789abcdef0123456789abcdef";
/// Stands for the nonce that the other side has just chosen.
const NONCE: &[u8] = b"{r}";

struct Known {
    salt: Salt,
    verifiers: [Verifier; 1],
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let salt = Salt::random().unwrap();
    Known { salt, verifiers: [Verifier::new(PASSWORD, salt)] }
});

/// The first byte says which play, the second what the sides are capable of; the rest is what the hostile one says.
pub fn run(data: &[u8]) {
    let [play, able, rest @ ..] = data else { return };
    match play % 3 {
        0 => any_client(*able, rest),
        1 => any_server(*able, rest),
        _ => in_between(*able, rest),
    }
}

fn binding(able: u8, bit: u8) -> Option<&'static [u8]> {
    (able & bit != 0).then_some(BINDING)
}

/// Lines: the mechanism, the first message, the last. Without the password nobody gets in.
fn any_client(able: u8, data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (mechanism, first, last) = (line(), line(), line());
    let (exchange, answer) = match Exchange::start(mechanism, first, binding(able, 1), KNOWN.salt) {
        Ok(started) => started,
        Err(error) => return assert!(error.to_string().len() < 200 && error.sqlstate().as_str().len() == 5),
    };
    assert!(answer.starts_with("r=") && answer.len() <= first.len() + 100, "{answer}");
    let last = with_nonce(last, nonce_of(answer.as_bytes()));
    let error = exchange.finish(&last, &KNOWN.verifiers).unwrap_err();
    assert!(error.to_string().len() < 200 && error.sqlstate().as_str().len() == 5);
}

/// Lines: one message of the server each, its first byte the method. No password in clear outside TLS, and no content
/// before the server has proved itself, once it was asked to.
fn any_server(able: u8, data: &[u8]) {
    let (encrypted, bound) = (able & 1 != 0, binding(able, 2));
    let mut answers = Answers::new("app", &Secret::new(PASSWORD), encrypted, bound.map(<[u8]>::to_vec));
    let (mut nonce, mut began) = (Vec::new(), false);
    for line in data.split(|byte| *byte == b'\n') {
        let Some((method, rest)) = line.split_first() else { continue };
        let mut body = i32::from(*method).to_be_bytes().to_vec();
        body.extend(with_nonce(rest, &nonce));
        let Some(request) = Authentication::parse(&body) else { return };
        let in_clear = request == Authentication::Cleartext;
        began |= matches!(request, Authentication::Sasl(_));
        let mut out = Vec::new();
        let done = answers.answer(request, &mut out);
        assert!(out.len() <= 3 * body.len() + 500, "{} bytes for {}", out.len(), body.len());
        let told = out.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes());
        assert!(!told || (encrypted && in_clear), "told the password");
        match done {
            Ok(true) => return assert!(!began, "content without a proof"),
            Ok(false) => {}
            Err(error) => return assert!(error.to_string().len() < 200 + body.len()),
        }
        if nonce.is_empty() && *method == 10 {
            nonce = nonce_of(&out).to_vec();
        }
    }
}

/// Both halves are ours; `data` is what somebody in between changes, four bytes each: which message, how, where, to what.
/// Whoever changed anything keeps both from agreeing.
fn in_between(able: u8, data: &[u8]) {
    let changes: Vec<[u8; 4]> = data.as_chunks().0.to_vec();
    let told = Told { changes: &changes, touched: false, changed: false };
    let agreed = log_in(binding(able, 1), binding(able, 2), told);
    // Both know the same certificate, or they speak of none.
    let possible = binding(able, 1) == binding(able, 2) || binding(able, 1).is_none() || binding(able, 2).is_none();
    match agreed {
        Ok(changed) => assert!(!changed, "a changed login was taken: {changes:?}"),
        Err((why, touched)) => assert!(touched || !possible, "an honest login failed: {why}"),
    }
}

struct Told<'a> {
    changes: &'a [[u8; 4]],
    /// Anything was changed.
    touched: bool,
    /// Something was changed that the proofs cover.
    changed: bool,
}

impl Told<'_> {
    /// The `number`th message as the other side gets it.
    fn pass(&mut self, number: u8, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        let honest = message.clone();
        for [_, how, place, byte] in self.changes.iter().filter(|[which, ..]| which % 5 == number) {
            let place = usize::from(*place) % (message.len() + 1);
            match how % 4 {
                0 => message.insert(place, *byte),
                1 => message.truncate(place),
                2 if place < message.len() => drop(message.remove(place)),
                3 if place < message.len() => message[place] = *byte,
                _ => {}
            }
        }
        // Only what the offer leads to is proved: a mechanism that nobody knows may be added to it.
        self.touched |= message != honest;
        self.changed |= number > 0 && message != honest;
        message
    }
}

/// Whether it was changed, if both are content; else why not.
fn log_in(server: Option<&[u8]>, client: Option<&[u8]>, mut told: Told<'_>) -> Result<bool, (String, bool)> {
    let mut play = || -> Result<(), String> {
        let refuse = |error: AuthError| error.to_string();
        let mut answers = Answers::new("app", &Secret::new(PASSWORD), true, client.map(<[u8]>::to_vec));
        let mut offer = Vec::new();
        authentication_sasl(&mut offer, mechanisms(server));
        let offer = told.pass(0, &offer[5..]);
        let mut out = Vec::new();
        let request = Authentication::parse(&offer).ok_or("no offer")?;
        if answers.answer(request, &mut out).map_err(refuse)? {
            return Err("content with nothing".to_owned());
        }
        let first = out.get(5..).unwrap_or_default();
        let mut body = Reader::new(first);
        let (Some(mechanism), Some(_)) = (body.cstr(), body.i32()) else { return Err("no SASL".to_owned()) };
        let plus = mechanism == SCRAM_SHA_256_PLUS.as_bytes();
        let first = told.pass(1, body.rest());
        let (exchange, answer) =
            Exchange::start(mechanism, &first, server, KNOWN.salt).map_err(|error| error.to_string())?;
        let answer = told.pass(2, answer.as_bytes());
        let mut out = Vec::new();
        answers.answer(Authentication::SaslContinue(&answer), &mut out).map_err(refuse)?;
        let last = told.pass(3, &out[5..]);
        let proof = exchange.finish(&last, &KNOWN.verifiers).map_err(|error| error.to_string())?;
        let proof = told.pass(4, proof.as_bytes());
        answers.answer(Authentication::SaslFinal(&proof), &mut Vec::new()).map_err(refuse)?;
        match answers.answer(Authentication::Ok, &mut Vec::new()) {
            Ok(true) => {
                assert_eq!(plus, server.is_some() && client.is_some(), "talked down");
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    };
    let result = play();
    result.map(|()| told.changed).map_err(|why| (why, told.touched))
}

/// What follows `r=` in a message, up to a comma.
fn nonce_of(message: &[u8]) -> &[u8] {
    let at = message.windows(2).position(|part| part == b"r=").map_or(message.len(), |at| at + 2);
    let rest = &message[at..];
    rest.split(|byte| *byte == b',').next().unwrap_or_default()
}

fn with_nonce(message: &[u8], nonce: &[u8]) -> Vec<u8> {
    match message.windows(NONCE.len()).position(|part| part == NONCE) {
        Some(at) => [&message[..at], nonce, &message[at + NONCE.len()..]].concat(),
        None => message.to_vec(),
    }
}
