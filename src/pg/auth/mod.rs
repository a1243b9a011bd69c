//! Proving who one is, in both roles; no I/O.
//!
//! Towards servers we are the client ([`answer`]): SCRAM by `postgres-protocol`, md5, a password in clear only
//! inside TLS. Towards clients we are the server ([`scram`]).

pub mod answer;
pub mod binding;
pub mod scram;

use std::fmt;

/// SCRAM without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// SCRAM bound to the TLS session it runs in.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// A password. Neither `Debug` nor `Display` show it; it is compared only to see whether a file changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Keeps `password`.
    pub fn new(password: impl Into<Box<str>>) -> Secret {
        Secret(password.into())
    }

    /// The password itself, for a login and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret.expose(), "hunter2");
        assert_ne!(secret, Secret::new("hunter3"));
    }
}
