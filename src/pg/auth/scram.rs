//! SCRAM-SHA-256 in the server's role ([`client`] is the other) (RFC 5802, RFC 7677), as PostgreSQL does it (`auth-scram.c`): the user name
//! inside the exchange is ignored, the one of the StartupMessage counts.
//!
//! The exchange: [`Exchange::start`] takes the client's first message and answers it, [`Exchange::finish`] takes its
//! last one. A credential's [`Verifier`] is computed once; a login then costs three hashes.

pub mod client;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::pg::error::SqlState;

/// Rounds of PBKDF2, PostgreSQL's own default.
pub const ITERATIONS: u32 = 4096;

type Key = [u8; 32];

/// What passwords are salted with: one per process, so that the verifiers of several passwords that are valid at
/// once (a rotation's overlap) can answer the same exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; 16]);

impl Salt {
    /// A random salt.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn random() -> Result<Salt, getrandom::Error> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        Ok(Salt(salt))
    }
}

/// What is kept of a password to check proofs of it: neither the password nor what a client needs to log in.
#[derive(Clone)]
pub struct Verifier {
    stored_key: Key,
    server_key: Key,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(…)")
    }
}

impl Verifier {
    /// Computes the verifier of `password`: [`ITERATIONS`] rounds, about a millisecond.
    pub fn new(password: &str, salt: Salt) -> Verifier {
        // Clients prepare the password so, and PostgreSQL takes it as it is where that fails.
        let prepared = stringprep::saslprep(password);
        let salted = salted_password(prepared.as_deref().unwrap_or(password).as_bytes(), &salt.0, ITERATIONS);
        let stored_key = Sha256::digest(hmac(&salted, b"Client Key")).into();
        Verifier { stored_key, server_key: hmac(&salted, b"Server Key") }
    }

    /// Whether `proof` proves that the client knows the password.
    fn accepts(&self, auth_message: &[u8], proof: &Key) -> bool {
        let mut client_key = hmac(&self.stored_key, auth_message);
        client_key.iter_mut().zip(proof).for_each(|(key, proof)| *key ^= proof);
        let stored_key: Key = Sha256::digest(client_key).into();
        stored_key.ct_eq(&self.stored_key).into()
    }
}

/// A few bits by which two that know a user's password see that they know the same: as slow to guess by as a verifier,
/// and too few to tell many guesses apart.
pub fn mark(user: &str, password: &str) -> u32 {
    let [a, b, c, d, ..] = salted_password(password.as_bytes(), format!("poolkeeper {user}").as_bytes(), ITERATIONS);
    u32::from_be_bytes([a, b, c, d])
}

fn hmac(key: &[u8], message: &[u8]) -> Key {
    keyed(key).chain_update(message).finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of every length: longer ones are hashed first, which is what a failure would leave to do.
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()))
}

/// `Hi` of RFC 5802: PBKDF2 with one block.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let keyed = keyed(password);
    let mut last: Key =
        keyed.clone().chain_update(salt).chain_update(1u32.to_be_bytes()).finalize().into_bytes().into();
    let mut result = last;
    for _ in 1..iterations {
        last = keyed.clone().chain_update(last).finalize().into_bytes().into();
        result.iter_mut().zip(last).for_each(|(result, last)| *result ^= last);
    }
    result
}

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ScramError {
    /// Not a message of SCRAM.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// A mechanism that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// Something that SCRAM has and PostgreSQL does not.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Somebody between the client and us took the offer of channel binding away.
    #[error(
        "SCRAM channel binding negotiation error: the client supports SCRAM channel binding but thinks the server \
         does not, while this server does"
    )]
    Downgrade,
    /// The client is connected to another TLS endpoint than this one.
    #[error("SCRAM channel binding check failed")]
    Binding,
    /// Wrong password.
    #[error("password authentication failed")]
    Password,
    /// No randomness.
    #[error("could not generate a random nonce")]
    Random,
}

impl ScramError {
    /// The code under which the client is told: PostgreSQL's choice.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            ScramError::Malformed(_) | ScramError::Mechanism => SqlState::PROTOCOL_VIOLATION,
            ScramError::Unsupported(_) => SqlState::FEATURE_NOT_SUPPORTED,
            ScramError::Downgrade | ScramError::Binding => SqlState::INVALID_AUTHORIZATION,
            ScramError::Password => SqlState::INVALID_PASSWORD,
            ScramError::Random => SqlState::INTERNAL_ERROR,
        }
    }
}

/// The mechanisms to offer, best first; `binding` is there inside TLS (see [`super::binding`]).
pub fn mechanisms(binding: Option<&[u8]>) -> &'static [&'static str] {
    if binding.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
}

/// An exchange whose first message was answered.
#[derive(Debug)]
pub struct Exchange {
    /// What `c=` of the last message must say: the client's own words and the binding, in base64.
    expected_binding: String,
    nonce: String,
    /// `client-first-message-bare,server-first-message,`
    transcript: String,
}

impl Exchange {
    /// Takes the mechanism and the first message, and gives the answer to send (AuthenticationSASLContinue).
    ///
    /// # Errors
    /// When the client speaks no SCRAM, or a kind of it that was not offered.
    pub fn start(
        mechanism: &[u8],
        message: &[u8],
        binding: Option<&[u8]>,
        salt: Salt,
    ) -> Result<(Exchange, String), ScramError> {
        let mut random = [0; 18];
        getrandom::fill(&mut random).map_err(|_| ScramError::Random)?;
        Exchange::start_with(mechanism, message, binding, salt, &STANDARD.encode(random))
    }

    fn start_with(
        mechanism: &[u8],
        message: &[u8],
        binding: Option<&[u8]>,
        salt: Salt,
        nonce: &str,
    ) -> Result<(Exchange, String), ScramError> {
        let plus = mechanism == SCRAM_SHA_256_PLUS.as_bytes();
        if !(plus && binding.is_some() || mechanism == SCRAM_SHA_256.as_bytes()) {
            return Err(ScramError::Mechanism);
        }
        let first = ClientFirst::parse(message)?;
        let bound = match (first.flag, plus) {
            ("n", false) => None,
            ("y", false) if binding.is_some() => return Err(ScramError::Downgrade),
            ("y", false) => None,
            ("p=tls-server-end-point", true) => binding,
            (flag, true) if flag.starts_with("p=") => {
                return Err(ScramError::Unsupported("unsupported SCRAM channel-binding type"));
            }
            (_, true) => return Err(ScramError::Malformed("no channel binding data for SCRAM-SHA-256-PLUS")),
            (_, false) => return Err(ScramError::Malformed("unexpected channel-binding flag")),
        };
        let mut expected = format!("{},,", first.flag).into_bytes();
        expected.extend(bound.unwrap_or_default());
        let nonce = format!("{}{nonce}", first.nonce);
        let answer = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(salt.0));
        let transcript = format!("{},{answer},", first.bare);
        Ok((Exchange { expected_binding: STANDARD.encode(expected), nonce, transcript }, answer))
    }

    /// Takes the last message. Any of `verifiers` may accept it, each made with the salt that the exchange was
    /// started with; the answer to send (AuthenticationSASLFinal) proves that we know the password, too.
    ///
    /// # Errors
    /// When the message is malformed, bound to another endpoint, or proves no password.
    pub fn finish(self, message: &[u8], verifiers: &[Verifier]) -> Result<String, ScramError> {
        let last = ClientLast::parse(message)?;
        if last.binding != self.expected_binding {
            return Err(ScramError::Binding);
        }
        if last.nonce != self.nonce {
            return Err(ScramError::Malformed("nonce does not match"));
        }
        let auth_message = format!("{}{}", self.transcript, last.without_proof);
        let accepts = |verifier: &&Verifier| verifier.accepts(auth_message.as_bytes(), &last.proof);
        let verifier = verifiers.iter().find(accepts).ok_or(ScramError::Password)?;
        Ok(format!("v={}", STANDARD.encode(hmac(&verifier.server_key, auth_message.as_bytes()))))
    }
}

/// `n,,n=user,r=nonce`
struct ClientFirst<'a> {
    flag: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(message)?;
        let cut = || ScramError::Malformed("the first message is cut short");
        let (flag, rest) = message.split_once(',').ok_or_else(cut)?;
        let (identity, bare) = rest.split_once(',').ok_or_else(cut)?;
        if identity.starts_with("a=") {
            return Err(ScramError::Unsupported("client uses authorization identity, but it is not supported"));
        } else if !identity.is_empty() {
            return Err(ScramError::Malformed("unexpected attribute before the first message"));
        } else if bare.starts_with("m=") {
            return Err(ScramError::Unsupported("client requires an unsupported SCRAM extension"));
        }
        let mut attributes = bare.split(',');
        attributes.next().and_then(|user| user.strip_prefix("n=")).ok_or_else(cut)?;
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or_else(cut)?;
        if nonce.is_empty() || !nonce.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(ScramError::Malformed("non-printable characters in SCRAM nonce"));
        }
        Ok(ClientFirst { flag, bare, nonce })
    }
}

/// `c=binding,r=nonce,p=proof`
struct ClientLast<'a> {
    binding: &'a str,
    nonce: &'a str,
    without_proof: &'a str,
    proof: Key,
}

impl<'a> ClientLast<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(message)?;
        let cut = || ScramError::Malformed("the last message is cut short");
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or_else(cut)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|binding| binding.strip_prefix("c=")).ok_or_else(cut)?;
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or_else(cut)?;
        let proof = STANDARD.decode(proof).ok().and_then(|proof| proof.try_into().ok());
        let proof = proof.ok_or(ScramError::Malformed("malformed proof"))?;
        Ok(ClientLast { binding, nonce, without_proof, proof })
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

#[cfg(test)]
mod tests;
