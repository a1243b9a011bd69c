//! How far a change of credentials is, by what sidecars say that they have read. Pure.
//!
//! The operator can't read Secrets, and a kubelet may take a minute and a half to bring a change to its pods, so only
//! sidecars know. The rotation's contract: update the Secret, wait for [`CREDENTIALS_ROTATED`], then change the role's
//! password or revoke the old role.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::facts::{Fact, Progress};
use super::status::named;
use crate::api::conditions::{CREDENTIALS_ROTATED, Finding, Holds, Reason};
use crate::contract::Credentials;

/// For how long after its last step a rotation is spoken of.
pub const SPOKEN_OF: Duration = Duration::from_secs(600);

/// How far a rotation is; `None` while there is none. By what is known of all pods that log in, those that are being
/// deleted too.
pub fn finding(facts: &[Fact], now: Timestamp) -> Option<Finding> {
    let newest = newest(facts)?;
    let differ = said(facts).any(|said| said.mark != newest.mark);
    let in_use = said(facts).any(|said| said.old_role_in_use);
    if !differ && !in_use && !is_recent(facts, now) {
        return None;
    }
    let found = |holds, reason, message| Finding { condition: CREDENTIALS_ROTATED, holds, reason, message };
    let has_read = |fact: &Fact| {
        let is_heard = fact.progress != Progress::Unreachable;
        is_heard && fact.credentials.as_ref().is_some_and(|said| said.mark == newest.mark)
    };
    if let Some(pods) = named(facts, |fact| (!has_read(fact)).then(String::new)) {
        let read = facts.iter().filter(|fact| has_read(fact)).count();
        let message = format!("{read}/{} pods have read the new credentials; not yet: {pods}", facts.len());
        return Some(found(Holds::False, Reason::SecretNotReadByAll, message));
    }
    let uses = |fact: &Fact| fact.credentials.as_ref().is_some_and(|said| said.old_role_in_use);
    if let Some(pods) = named(facts, |fact| uses(fact).then(String::new)) {
        let message = format!("all pods have read the new credentials; sessions of the old role are open in {pods}");
        return Some(found(Holds::False, Reason::OldRoleInUse, message));
    }
    Some(match said(facts).any(|said| said.role_changed && said.changed == newest.changed) {
        true => {
            let message = format!(
                "all pods have read the new role{}, none has a session of the old one open: it can be revoked now",
                when(newest)
            );
            found(Holds::True, Reason::OldRoleUnused, message)
        }
        false => {
            let message =
                format!("all pods have read the new password{}: change the role's password now", when(newest));
            found(Holds::True, Reason::AllRead, message)
        }
    })
}

/// Tells one rotation from the one before.
fn when(newest: &Credentials) -> String {
    let at = newest.changed.and_then(|changed| Timestamp::from_second(changed).ok());
    at.map(|at| format!(" (the last at {at})")).unwrap_or_default()
}

/// For how long there is something to say if nothing else happens.
pub fn ends(facts: &[Fact], now: Timestamp) -> Option<Duration> {
    let changed = said(facts).filter_map(|said| said.changed).max()?;
    let left = SPOKEN_OF.as_secs() as i64 - age(changed, now);
    u64::try_from(left).ok().map(|left| Duration::from_secs(left + 1))
}

fn is_recent(facts: &[Fact], now: Timestamp) -> bool {
    said(facts).filter_map(|said| said.changed).any(|changed| age(changed, now) <= SPOKEN_OF.as_secs() as i64)
}

/// By two clocks: a node's may be ahead of ours.
fn age(changed: i64, now: Timestamp) -> i64 {
    now.as_second().saturating_sub(changed).max(0)
}

fn said(facts: &[Fact]) -> impl Iterator<Item = &Credentials> {
    facts.iter().filter_map(|fact| fact.credentials.as_ref())
}

/// What was read last; where nobody saw a change, what most pods have.
fn newest(facts: &[Fact]) -> Option<&Credentials> {
    let mut alike: BTreeMap<u32, usize> = BTreeMap::new();
    said(facts).for_each(|said| *alike.entry(said.mark).or_default() += 1);
    said(facts).max_by_key(|said| (said.changed, alike.get(&said.mark).copied()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::contract::Health;

    const NOW: i64 = 10_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A pod that has read what is marked so.
    fn pod(name: &str, mark: u32, changed: Option<i64>) -> Fact {
        Fact {
            pod: name.into(),
            progress: Progress::Applied,
            restart: vec![],
            references: None,
            credentials: Some(Credentials { mark, changed, ..Credentials::default() }),
            health: Health::default(),
            numbers: None,
        }
    }

    fn shown(facts: &[Fact]) -> Option<(&'static str, Reason, String)> {
        finding(facts, at(NOW)).map(|found| (found.holds.name(), found.reason, found.message))
    }

    #[test]
    fn at_rest_there_is_nothing_to_say() {
        assert_eq!(shown(&[]), None);
        assert_eq!(shown(&[pod("a", 1, None), pod("b", 1, None)]), None);
        let long_ago = NOW - 601;
        assert_eq!(shown(&[pod("a", 1, Some(long_ago)), pod("b", 1, None)]), None, "it is over");
        let silent = Fact { credentials: None, ..pod("a", 1, None) };
        assert_eq!(shown(&[silent]), None, "an older sidecar, or one without a Secret");
    }

    #[test]
    fn a_password_may_change_when_all_have_read_it() {
        let (a, b) = (pod("a", 2, Some(NOW - 3)), pod("b", 1, None));
        let (holds, reason, message) = shown(&[a.clone(), b]).unwrap();
        assert_eq!((holds, reason), ("False", Reason::SecretNotReadByAll));
        assert_eq!(message, "1/2 pods have read the new credentials; not yet: b");
        let all = [a, pod("b", 2, Some(NOW)), pod("started later", 2, None)];
        let (_, reason, message) = shown(&all).unwrap();
        assert_eq!(reason, Reason::AllRead);
        assert!(message.contains("(the last at 1970-01-01T02:46:40Z)"), "which rotation it was: {message}");
        assert_eq!(ends(&all, at(NOW)), Some(Duration::from_secs(601)));
        assert_eq!(ends(&[pod("a", 1, Some(NOW + 60))], at(NOW)), Some(Duration::from_secs(601)), "a clock ahead");
        assert_eq!((ends(&[pod("a", 1, None)], at(NOW)), ends(&all, at(NOW + 601))), (None, None));
    }

    #[test]
    fn whoever_says_nothing_has_read_nothing() {
        let lost = Fact { progress: Progress::Unreachable, ..pod("lost", 2, None) };
        let older = Fact { credentials: None, ..pod("older", 0, None) };
        let (_, reason, message) = shown(&[pod("a", 2, Some(NOW)), lost, older]).unwrap();
        assert_eq!(reason, Reason::SecretNotReadByAll);
        assert_eq!(message, "1/3 pods have read the new credentials; not yet: lost, older");
    }

    #[test]
    fn pods_that_differ_for_long_are_still_named() {
        let (_, reason, message) = shown(&[pod("a", 2, Some(1)), pod("b", 1, None), pod("c", 1, None)]).unwrap();
        assert_eq!(
            (reason, message.as_str()),
            (Reason::SecretNotReadByAll, "1/3 pods have read the new credentials; not yet: b, c")
        );
        let started = [pod("a", 2, None), pod("b", 1, None), pod("c", 1, None)];
        assert!(shown(&started).unwrap().2.ends_with("not yet: a"), "nobody saw a change: most count");
    }

    #[test]
    fn a_role_may_be_revoked_when_no_session_is_its_own() {
        let mut facts = [pod("a", 2, Some(NOW)), pod("b", 2, Some(NOW - 9))];
        for fact in &mut facts {
            let said = fact.credentials.as_mut().unwrap();
            (said.role_changed, said.old_role_in_use) = (true, fact.pod == "b");
        }
        let (holds, reason, message) = shown(&facts).unwrap();
        assert_eq!((holds, reason), ("False", Reason::OldRoleInUse));
        assert!(message.ends_with("are open in b"), "{message}");
        facts[1].credentials.as_mut().unwrap().old_role_in_use = false;
        let (holds, reason, _) = shown(&facts).unwrap();
        assert_eq!((holds, reason), ("True", Reason::OldRoleUnused));
    }
}
