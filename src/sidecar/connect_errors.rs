//! Errors of connections to one database's servers, counted by phase and class of SQLSTATE.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kinds of errors kept apart; what is beyond counts as `other`. Servers choose their SQLSTATEs, so this bounds memory.
const KINDS: usize = 64;

/// Errors of connections to servers. Not on the path of a query.
#[derive(Debug, Default)]
pub struct ConnectErrors(Mutex<BTreeMap<(&'static str, String), u64>>);

/// How often an error of one kind was met.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErrorCount {
    /// How far the connection was, such as `tcp` or `auth`.
    pub phase: String,
    /// The first two characters of the SQLSTATE; `none` if the server gave none, `other` beyond the bound.
    pub class: String,
    /// Since the start.
    pub count: u64,
}

impl ConnectErrors {
    /// Counts an error. `phase` says how far the connection was.
    pub fn count(&self, phase: &'static str, sqlstate: Option<&str>) {
        let class = match sqlstate.filter(|code| !code.is_empty()).map(|code| code.get(..2)) {
            Some(Some(class)) if class.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) => class,
            Some(_) => "other",
            None => "none",
        };
        let mut errors = self.lock();
        let known = errors.len() < KINDS || errors.contains_key(&(phase, class.to_owned()));
        let class = if known { class } else { "other" };
        let count = errors.entry((phase, class.to_owned())).or_insert(0);
        *count = count.saturating_add(1);
    }

    /// The errors so far, ordered by phase and class.
    pub fn all(&self) -> Vec<ErrorCount> {
        self.lock()
            .iter()
            .map(|((phase, class), count)| ErrorCount { phase: (*phase).into(), class: class.clone(), count: *count })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), u64>> {
        // Nothing panics while the lock is held in a half-made state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(phase: &str, class: &str, count: u64) -> ErrorCount {
        ErrorCount { phase: phase.into(), class: class.into(), count }
    }

    #[test]
    fn errors_are_counted_by_phase_and_class() {
        let errors = ConnectErrors::default();
        errors.count("tcp", None);
        errors.count("auth", Some("28P01"));
        errors.count("auth", Some("28000"));
        for odd in ["é", "!!x", "5", ""] {
            errors.count("startup", Some(odd));
        }
        assert_eq!(
            errors.all(),
            [
                count("auth", "28", 2),
                count("startup", "none", 1),
                count("startup", "other", 3),
                count("tcp", "none", 1)
            ]
        );
    }

    #[test]
    fn a_server_that_invents_codes_costs_no_memory() {
        let errors = ConnectErrors::default();
        for a in b'A'..=b'Z' {
            for b in b'A'..=b'Z' {
                errors.count("startup", Some(&format!("{}{}000", char::from(a), char::from(b))));
            }
        }
        assert_eq!(errors.all().len(), KINDS + 1);
        assert_eq!(errors.all().iter().map(|e| e.count).sum::<u64>(), 26 * 26);
    }
}
