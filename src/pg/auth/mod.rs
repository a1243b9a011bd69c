//! Proving who one is, in both roles; no I/O.
//!
//! Towards servers we are the client ([`answer`]): SCRAM ([`scram::client`]), md5 by `postgres-protocol`, a password in
//! clear only inside TLS. Towards clients we are the server ([`scram`]).

pub mod answer;
pub mod binding;
pub mod scram;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use self::scram::client::Kept;

/// SCRAM without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// SCRAM bound to the TLS session it runs in.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// A password. Neither `Debug` nor `Display` show it; it is compared only to see whether a file changed.
///
/// With it goes what the last login by SCRAM has computed of it; all clones share that, and the last one takes it along.
#[derive(Clone)]
pub struct Secret {
    password: Zeroizing<Box<str>>,
    kept: Arc<Mutex<Kept>>,
}

impl Secret {
    /// Keeps `password`.
    pub fn new(password: impl Into<Box<str>>) -> Secret {
        Secret { password: Zeroizing::new(password.into()), kept: Arc::default() }
    }

    /// The password itself, for a login and nothing else.
    pub fn expose(&self) -> &str {
        &self.password
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // It is replaced whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.password == other.password
    }
}

impl Eq for Secret {}

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
