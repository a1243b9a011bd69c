//! How the front door knows the probe: by an `application_name` that nobody else can guess.

use std::fmt;

use subtle::ConstantTimeEq;

/// What the name begins with; all of it that is shown anywhere.
pub const PREFIX: &str = "poolkeeper-probe";

/// The secret of this process. It gives no access by itself: the probe logs in as everybody does.
pub struct Token(String);

impl Token {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // 49 characters: PostgreSQL would cut off what is beyond 63.
        Ok(Self(format!("{PREFIX}-{hex}")))
    }

    /// Whether a client that calls itself this is the probe.
    pub fn matches(&self, application_name: &str) -> bool {
        application_name.as_bytes().ct_eq(self.0.as_bytes()).into()
    }

    /// The name that the probe gives itself; not for logs, servers or `/status`.
    pub(in crate::sidecar) fn application_name(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_whole_token_matches_and_it_is_not_shown() {
        let token = Token::random().unwrap();
        let name = token.application_name().to_owned();
        assert!(token.matches(&name));
        assert_eq!(name.len(), PREFIX.len() + 33);
        for other in ["", PREFIX, &name[..name.len() - 1], &format!("{name}0"), &name.to_uppercase()] {
            assert!(!token.matches(other), "{other:?}");
        }
        assert!(!Token::random().unwrap().matches(&name));
        assert!(!format!("{token:?}").contains(&name[PREFIX.len() + 1..]));
    }
}
