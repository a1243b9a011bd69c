//! The client's role, towards servers, as libpq plays it (`fe-auth-scram.c`). By hand because what 4096 rounds yield is
//! used again: servers are opened many at a time, with the same password, while clients wait for them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Key, hmac, salted_password};
use crate::pg::auth::Secret;

/// More rounds than anybody asks for in earnest: above, the server is out to keep us busy.
const MOST_ITERATIONS: u32 = 100_000;

/// What a password and a server's salt yield. Whoever has it can log in as with the password.
#[derive(Clone)]
pub struct Keys {
    client: Zeroizing<Key>,
    server: Zeroizing<Key>,
}

impl Keys {
    fn new(password: &str, salt: &[u8], iterations: u32) -> Self {
        // As PostgreSQL prepares it, which takes it as it is where that fails.
        let prepared = stringprep::saslprep(password);
        let prepared = prepared.as_deref().unwrap_or(password);
        let salted = Zeroizing::new(salted_password(prepared.as_bytes(), salt, iterations));
        let key = |name: &[u8]| Zeroizing::new(hmac(&*salted, name));
        Self { client: key(b"Client Key"), server: key(b"Server Key") }
    }
}

/// The last keys of one password, until that is forgotten.
#[derive(Default)]
pub struct Kept(Option<(Vec<u8>, u32, Keys)>);

impl Kept {
    fn get(&self, challenge: &Challenge<'_>) -> Option<Keys> {
        let (salt, iterations, keys) = self.0.as_ref()?;
        (*salt == challenge.salt && *iterations == challenge.iterations).then(|| keys.clone())
    }
}

/// Why a server gets no proof, or is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClientError {
    /// Not a message of SCRAM.
    #[error("malformed message")]
    Malformed,
    /// It does not continue what we began.
    #[error("invalid nonce")]
    Nonce,
    /// It asks for too much work.
    #[error("more than {MOST_ITERATIONS} iterations are asked for")]
    Iterations,
    /// It refused.
    #[error("the server refused the proof")]
    Refused,
    /// It does not know the password.
    #[error("the server does not know the password")]
    Unproven,
    /// No randomness.
    #[error("could not generate a random nonce")]
    Random,
}

/// An exchange of which the first message can be sent.
pub struct First {
    /// What `c=` will say: flag and data of the channel binding.
    binding: Vec<u8>,
    nonce: String,
    /// The message.
    pub message: String,
}

/// An exchange whose proof can be sent.
pub struct Last {
    signature: Key,
    /// The message.
    pub message: String,
}

/// What SCRAM is told about channel binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// There is none: no TLS, or a certificate that none is defined for.
    Unsupported,
    /// There is one, and the server did not offer it.
    Unrequested,
    /// The hash of the server's certificate.
    EndPoint(Vec<u8>),
}

impl First {
    /// Begins.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new(binding: Binding) -> Result<Self, ClientError> {
        let mut random = [0; 18];
        getrandom::fill(&mut random).map_err(|_| ClientError::Random)?;
        let (flag, data) = match binding {
            Binding::Unsupported => ("n,,", Vec::new()),
            Binding::Unrequested => ("y,,", Vec::new()),
            Binding::EndPoint(data) => ("p=tls-server-end-point,,", data),
        };
        let nonce = STANDARD.encode(random);
        let message = format!("{flag}n=,r={nonce}");
        Ok(Self { binding: [flag.as_bytes(), &data].concat(), nonce, message })
    }

    /// Whether answering this takes thousands of hashes: nothing is kept of `secret` that fits.
    pub fn is_costly(challenge: &[u8], secret: &Secret) -> bool {
        Challenge::parse(challenge).is_ok_and(|challenge| secret.kept().get(&challenge).is_none())
    }

    /// Answers the server's challenge.
    ///
    /// # Errors
    /// When it is none, not for us, or asks for too much.
    pub fn answer(self, challenge: &[u8], secret: &Secret) -> Result<Last, ClientError> {
        let said = Challenge::parse(challenge)?;
        if !said.nonce.starts_with(&self.nonce) {
            return Err(ClientError::Nonce);
        } else if said.iterations > MOST_ITERATIONS {
            return Err(ClientError::Iterations);
        }
        let known = secret.kept().get(&said);
        let keys = known.unwrap_or_else(|| {
            // Nobody waits for the lock meanwhile.
            let keys = Keys::new(secret.expose(), &said.salt, said.iterations);
            *secret.kept() = Kept(Some((said.salt.clone(), said.iterations, keys.clone())));
            keys
        });
        let without_proof = format!("c={},r={}", STANDARD.encode(&self.binding), said.nonce);
        let transcript = format!("n=,r={},{},{without_proof}", self.nonce, said.text);
        let stored: Key = Sha256::digest(*keys.client).into();
        let mut proof = hmac(&stored, transcript.as_bytes());
        proof.iter_mut().zip(&*keys.client).for_each(|(proof, key)| *proof ^= key);
        let message = format!("{without_proof},p={}", STANDARD.encode(proof));
        Ok(Last { signature: hmac(&*keys.server, transcript.as_bytes()), message })
    }
}

impl Last {
    /// Whether the server proves that it knows the password.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn check(&self, message: &[u8]) -> Result<(), ClientError> {
        let text = str::from_utf8(message).map_err(|_| ClientError::Malformed)?;
        if text.starts_with("e=") {
            return Err(ClientError::Refused);
        }
        let signature = text.strip_prefix("v=").and_then(|signature| STANDARD.decode(signature).ok());
        let signature = signature.ok_or(ClientError::Malformed)?;
        if bool::from(signature.ct_eq(&self.signature)) { Ok(()) } else { Err(ClientError::Unproven) }
    }
}

/// `r=nonce,s=salt,i=iterations`
struct Challenge<'a> {
    text: &'a str,
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> Challenge<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ClientError> {
        let parse = || {
            let text = str::from_utf8(message).ok()?;
            let mut attributes = text.split(',');
            let mut next = |name: &str| attributes.next()?.strip_prefix(name);
            let nonce = next("r=").filter(|nonce| nonce.bytes().all(|c| c.is_ascii_graphic()))?;
            let salt = STANDARD.decode(next("s=")?).ok()?;
            let digits = next("i=").filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()))?;
            let iterations = digits.parse().ok().filter(|iterations| *iterations > 0)?;
            attributes.next().is_none().then_some(Self { text, nonce, salt, iterations })
        };
        parse().ok_or(ClientError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// RFC 7677's own exchange, with the nonce put in place.
    const CHALLENGE: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn first() -> First {
        First { binding: b"n,,".to_vec(), nonce: "rOprNGfwEbeRWgbNEkqO".into(), message: String::new() }
    }

    #[test]
    fn a_proof_is_made_once_and_the_same_from_what_is_kept() {
        let secret = Secret::new("pencil");
        assert!(First::is_costly(CHALLENGE, &secret));
        let last = first().answer(CHALLENGE, &secret).unwrap();
        assert!(!First::is_costly(CHALLENGE, &secret));
        // PostgreSQL sends no user name in SCRAM, so the proof is not the RFC's; its salted password is.
        let salted = salted_password(b"pencil", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096);
        assert_eq!(STANDARD.encode(salted), "xKSVEDI6tPlSysH6mUQZOeeOp01r6B3fcJbodRPcYV0=");
        assert_eq!(first().answer(CHALLENGE, &secret.clone()).unwrap().message, last.message);
        assert_eq!(first().answer(CHALLENGE, &Secret::new("pencil")).unwrap().message, last.message);
    }

    #[test]
    fn what_is_kept_is_for_one_salt_and_one_count() {
        let secret = Secret::new("pencil");
        first().answer(CHALLENGE, &secret).unwrap();
        let text = str::from_utf8(CHALLENGE).unwrap();
        for other in [text.replace("s=W", "s=X"), text.replace("4096", "4097")] {
            assert!(First::is_costly(other.as_bytes(), &secret));
            first().answer(other.as_bytes(), &secret).unwrap();
            assert!(First::is_costly(CHALLENGE, &secret), "the last alone is kept");
            first().answer(CHALLENGE, &secret).unwrap();
        }
        assert!(First::is_costly(CHALLENGE, &Secret::new("pencil")), "and with its password alone");
    }

    #[test]
    fn challenges_that_are_none() {
        let secret = Secret::new("pencil");
        let fails = |text: &str| first().answer(text.as_bytes(), &secret).err();
        let ours = "rOprNGfwEbeRWgbNEkqO";
        assert_eq!(fails("r=another,s=AAAA,i=4096"), Some(ClientError::Nonce));
        assert_eq!(fails(&format!("r={ours}x,s=AAAA,i=100001")), Some(ClientError::Iterations));
        for rest in ["", ",s=AAAA", ",s=A,i=1", ",s=AAAA,i=0", ",s=AAAA,i=+1", ",s=AAAA,i=1,x=1", ",i=1,s=AAAA"] {
            assert_eq!(fails(&format!("r={ours}{rest}")), Some(ClientError::Malformed), "{rest}");
        }
    }

    #[test]
    fn ends_that_are_none() {
        let last = Last { signature: [7; 32], message: String::new() };
        assert_eq!(last.check(format!("v={}", STANDARD.encode([7; 32])).as_bytes()), Ok(()));
        assert_eq!(last.check(format!("v={}", STANDARD.encode([8; 32])).as_bytes()), Err(ClientError::Unproven));
        assert_eq!(last.check(b"v=AAAA"), Err(ClientError::Unproven));
        assert_eq!(last.check(b"e=invalid-proof"), Err(ClientError::Refused));
        assert_eq!(last.check(b"\xff"), Err(ClientError::Malformed));
        assert_eq!(last.check(b"v=?"), Err(ClientError::Malformed));
    }
}
