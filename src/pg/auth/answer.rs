//! Answering a server that asks who we are.

use postgres_protocol::authentication::md5_hash;
use thiserror::Error;

use super::scram::client::{Binding, First, Last};
use super::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Secret};
use crate::pg::message::{self, Authentication};

/// Why a server gets no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthError {
    /// It wants the password in clear outside TLS.
    #[error("the server asks for the password in clear text, which is sent inside TLS only")]
    Clear,
    /// It wants what is not spoken here.
    #[error(
        "the server asks for authentication method {0}, which is not supported (SCRAM-SHA-256, md5 and, inside TLS, password are)"
    )]
    Method(i32),
    /// It offers no SASL mechanism that is spoken here.
    #[error("the server offers no SASL mechanism that is supported (SCRAM-SHA-256 and SCRAM-SHA-256-PLUS are)")]
    Mechanism,
    /// SCRAM failed: it does not know the password itself, or does not speak it.
    #[error("SCRAM with the server failed: {0}")]
    Scram(String),
    /// It says that all is well before it proved that it knows the password.
    #[error("the server ended SCRAM without proving that it knows the password")]
    Unproven,
    /// It sent what has no place here.
    #[error("the server sent an authentication message out of order")]
    Order,
}

enum State {
    /// Nothing was asked yet, or nothing that is still open.
    Idle,
    /// The first message of SCRAM was sent.
    First(First),
    /// The proof was sent.
    Proof(Last),
    /// The server proved that it knows the password.
    Proven,
}

/// The answers of one login.
pub struct Answers {
    user: String,
    password: Secret,
    encrypted: bool,
    binding: Option<Vec<u8>>,
    state: State,
}

impl Answers {
    /// Answers for `user`. `encrypted` says whether TLS runs, `binding` is its [`super::binding`], if it has one.
    pub fn new(user: &str, password: &Secret, encrypted: bool, binding: Option<Vec<u8>>) -> Answers {
        Answers { user: user.to_owned(), password: password.clone(), encrypted, binding, state: State::Idle }
    }

    /// Whether the answer takes long enough to be computed elsewhere.
    pub fn is_costly(&self, request: &Authentication<'_>) -> bool {
        matches!(request, Authentication::SaslContinue(data) if First::is_costly(data, &self.password))
    }

    /// Answers one message by appending to `out`; true when the server is content.
    ///
    /// SASLContinue makes it compute up to 100 000 rounds of PBKDF2, if [`Answers::is_costly`] says so: milliseconds, up
    /// to a tenth of a second.
    ///
    /// # Errors
    /// When there is no answer. The connection must then end.
    pub fn answer(&mut self, request: Authentication<'_>, out: &mut Vec<u8>) -> Result<bool, AuthError> {
        match (request, std::mem::replace(&mut self.state, State::Idle)) {
            (Authentication::Ok, State::Idle | State::Proven) => return Ok(true),
            (Authentication::Ok, _) => return Err(AuthError::Unproven),
            (Authentication::Cleartext, State::Idle) if self.encrypted => {
                message::password(out, self.password.expose().as_bytes());
            }
            (Authentication::Cleartext, State::Idle) => return Err(AuthError::Clear),
            (Authentication::Md5(salt), State::Idle) => {
                let hash = md5_hash(self.user.as_bytes(), self.password.expose().as_bytes(), salt);
                message::password(out, hash.as_bytes());
            }
            (Authentication::Sasl(mechanisms), State::Idle) => self.begin(&mechanisms, out)?,
            (Authentication::SaslContinue(data), State::First(scram)) => {
                let last = scram.answer(data, &self.password).map_err(|error| AuthError::Scram(error.to_string()))?;
                message::sasl_response(out, last.message.as_bytes());
                self.state = State::Proof(last);
            }
            (Authentication::SaslFinal(data), State::Proof(scram)) => {
                scram.check(data).map_err(|error| AuthError::Scram(error.to_string()))?;
                self.state = State::Proven;
            }
            (Authentication::Other(method), _) => return Err(AuthError::Method(method)),
            _ => return Err(AuthError::Order),
        }
        Ok(false)
    }

    fn begin(&mut self, mechanisms: &[&str], out: &mut Vec<u8>) -> Result<(), AuthError> {
        let plus = mechanisms.contains(&SCRAM_SHA_256_PLUS);
        let (mechanism, binding) = match self.binding.take() {
            Some(binding) if plus => (SCRAM_SHA_256_PLUS, Binding::EndPoint(binding)),
            _ if !mechanisms.contains(&SCRAM_SHA_256) => return Err(AuthError::Mechanism),
            // "I could, you did not offer": the server notices if somebody removed its offer.
            Some(_) => (SCRAM_SHA_256, Binding::Unrequested),
            None => (SCRAM_SHA_256, Binding::Unsupported),
        };
        let scram = First::new(binding).map_err(|error| AuthError::Scram(error.to_string()))?;
        message::sasl_initial_response(out, mechanism, scram.message.as_bytes());
        self.state = State::First(scram);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pg::auth::scram::{Exchange, Salt, Verifier};
    use crate::pg::message::Reader;
    use proptest::prelude::*;

    fn answers(encrypted: bool, binding: Option<&[u8]>) -> Answers {
        Answers::new("app", &Secret::new("secret"), encrypted, binding.map(<[u8]>::to_vec))
    }

    fn one(encrypted: bool, request: Authentication<'_>) -> Result<(bool, Vec<u8>), AuthError> {
        let mut out = Vec::new();
        answers(encrypted, None).answer(request, &mut out).map(|done| (done, out))
    }

    #[test]
    fn without_sasl() {
        assert_eq!(one(false, Authentication::Ok), Ok((true, vec![])));
        let (done, out) = one(false, Authentication::Md5([1, 2, 3, 4])).unwrap();
        // select 'md5' || md5(convert_to(md5('secret' || 'app'), 'UTF8') || '\x01020304')
        let expected = md5_hash(b"app", b"secret", [1, 2, 3, 4]);
        assert_eq!((done, &out[5..]), (false, format!("{expected}\0").as_bytes()));
    }

    #[test]
    fn a_password_in_clear_goes_through_tls_only() {
        assert_eq!(one(false, Authentication::Cleartext), Err(AuthError::Clear));
        assert_eq!(one(true, Authentication::Cleartext), Ok((false, b"p\0\0\0\x0bsecret\0".to_vec())));
    }

    #[test]
    fn what_has_no_answer() {
        assert_eq!(one(true, Authentication::Other(7)), Err(AuthError::Method(7)));
        assert_eq!(one(true, Authentication::Sasl(vec!["OAUTHBEARER"])), Err(AuthError::Mechanism));
        assert_eq!(one(true, Authentication::Sasl(vec![SCRAM_SHA_256_PLUS])), Err(AuthError::Mechanism));
        assert_eq!(one(true, Authentication::SaslContinue(b"r=1")), Err(AuthError::Order));
        assert_eq!(one(true, Authentication::SaslFinal(b"v=1")), Err(AuthError::Order));
    }

    /// A login at our own server half; `tamper` may change what the server says.
    fn scram(
        offers: &[&str],
        client: Option<&[u8]>,
        server: Option<&[u8]>,
        tamper: fn(&mut String),
    ) -> Result<(String, bool), AuthError> {
        let salt = Salt::random().unwrap();
        let mut answers = answers(true, client);
        let mut out = Vec::new();
        assert!(!answers.answer(Authentication::Sasl(offers.to_vec()), &mut out)?);
        let mut body = Reader::new(&out[5..]);
        let mechanism = body.cstr().unwrap();
        assert_eq!(usize::try_from(body.i32().unwrap()).unwrap(), body.rest().len());
        let (exchange, mut answer) = Exchange::start(mechanism, body.rest(), server, salt).unwrap();
        tamper(&mut answer);
        let mut last = Vec::new();
        assert!(!answers.answer(Authentication::SaslContinue(answer.as_bytes()), &mut last)?);
        let mut answer = exchange.finish(&last[5..], &[Verifier::new("secret", salt)]).unwrap();
        tamper(&mut answer);
        assert!(!answers.answer(Authentication::SaslFinal(answer.as_bytes()), &mut Vec::new())?);
        let done = answers.answer(Authentication::Ok, &mut Vec::new())?;
        Ok((String::from_utf8(mechanism.to_vec()).unwrap(), done))
    }

    #[test]
    fn scram_with_and_without_binding() {
        let both = [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
        let plain = [SCRAM_SHA_256];
        let ok = |mechanism: &str| Ok((mechanism.to_owned(), true));
        assert_eq!(scram(&both, Some(b"h"), Some(b"h"), |_| ()), ok(SCRAM_SHA_256_PLUS));
        assert_eq!(scram(&[SCRAM_SHA_256_PLUS], Some(b"h"), Some(b"h"), |_| ()), ok(SCRAM_SHA_256_PLUS));
        assert_eq!(scram(&both, None, Some(b"h"), |_| ()), ok(SCRAM_SHA_256));
        assert_eq!(scram(&plain, Some(b"h"), None, |_| ()), ok(SCRAM_SHA_256));
        assert_eq!(scram(&plain, None, None, |_| ()), ok(SCRAM_SHA_256));
    }

    #[test]
    fn case_63_hostile_servers() {
        let fails = |tamper| matches!(scram(&[SCRAM_SHA_256], None, None, tamper), Err(AuthError::Scram(_)));
        // Another signature, another nonce, a million rounds, an error, nonsense, a nonce of a megabyte.
        assert!(fails(|text| if text.starts_with("v=") {
            "v=AAAA".clone_into(text)
        }));
        assert!(fails(|text| if text.starts_with("r=") {
            text.insert(2, 'x')
        }));
        assert!(fails(|text| *text = text.replace("i=4096", "i=1000000")));
        assert!(fails(|text| if text.starts_with("v=") {
            "e=other-error".clone_into(text)
        }));
        assert!(fails(|text| text.clear()));
        assert!(fails(|text| if text.starts_with("r=") {
            *text = "r=x".repeat(1 << 20)
        }));
    }

    #[test]
    fn a_server_must_prove_itself() {
        let mut answers = answers(true, None);
        let mut out = Vec::new();
        answers.answer(Authentication::Sasl(vec![SCRAM_SHA_256]), &mut out).unwrap();
        assert_eq!(answers.answer(Authentication::Ok, &mut out), Err(AuthError::Unproven));
    }

    #[test]
    fn a_server_cannot_ask_for_less_in_the_middle() {
        for request in
            [Authentication::Cleartext, Authentication::Md5([0; 4]), Authentication::Sasl(vec![SCRAM_SHA_256])]
        {
            let mut answers = answers(true, None);
            let mut out = Vec::new();
            answers.answer(Authentication::Sasl(vec![SCRAM_SHA_256]), &mut out).unwrap();
            assert_eq!(answers.answer(request, &mut out), Err(AuthError::Order));
        }
    }

    proptest! {
        #[test]
        fn any_bytes(first in proptest::collection::vec(any::<u8>(), 0..80), last in "[rsiv]?=?.{0,9},?s?=?.{0,4},?i?=?[0-9]{0,2}") {
            for data in [&first[..], last.as_bytes()] {
                let mut answers = answers(true, None);
                let mut out = Vec::new();
                answers.answer(Authentication::Sasl(vec![SCRAM_SHA_256]), &mut out).unwrap();
                prop_assert!(answers.answer(Authentication::SaslContinue(data), &mut out).is_err());
            }
        }
    }
}
