//! What would be: for admission, which answers before anything is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Index, Namespace, Policy, Standing, clash, conflicts, is_for};

/// What a policy would bring about if it were stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Pods with a sidecar that it is for.
    pub pods: usize,
    /// Who would be in conflict because of it, and why: itself, or newer policies.
    pub conflicts: Vec<String>,
}

/// A policy that is for a pod and not given to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Its name.
    pub name: String,
    /// Why not.
    pub why: String,
}

impl Index {
    /// Policies that are for a pod with these labels and would not be given to it, oldest first.
    pub fn withheld(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Withheld> {
        let Some(namespace) = self.namespaces.get(namespace) else { return Vec::new() };
        let (mut taken, mut withheld) = (Vec::<&Policy>::new(), Vec::new());
        for policy in namespace.by_age().into_iter().filter(|policy| is_for(policy, labels)) {
            let why = match namespace.standing(policy) {
                Standing::Invalid(problems) => Some(match problems.as_slice() {
                    [] => "is not valid".into(),
                    [first] => format!("is not valid: {first}"),
                    [first, rest @ ..] => format!("is not valid: {first} (and {} more)", rest.len()),
                }),
                Standing::Conflicted(conflict) => Some(conflict),
                Standing::Accepted => taken.iter().find_map(|older| clash(older, policy)),
            };
            match why {
                Some(why) => withheld.push(Withheld { name: policy.key.name.clone(), why }),
                None => taken.push(policy),
            }
        }
        withheld
    }

    /// What a policy would bring about, new or in place of the one of its name.
    pub fn outlook(&self, policy: &Policy) -> Outlook {
        let empty = Namespace::default();
        let namespace = self.namespaces.get(&policy.key.namespace).unwrap_or(&empty);
        let pods = || namespace.pods.values().filter(|entry| !entry.pod.ended).map(|entry| &entry.pod.labels);
        let mut policies = namespace.policies.clone();
        policies.insert(policy.key.name.clone(), Arc::new(policy.clone()));
        let would_be = Namespace { policies, ..Namespace::default() };
        let found = conflicts(&would_be.by_age(), pods());
        let news = found.iter().filter(|(uid, _)| **uid == policy.uid || !namespace.conflicts.contains_key(*uid));
        let conflict = |(uid, why): (&String, &String)| {
            let of = would_be.policies.values().find(|known| known.uid == *uid)?;
            Some(format!("{}: {why}", of.key.name))
        };
        Outlook {
            pods: pods().filter(|labels| is_for(policy, labels)).count(),
            conflicts: news.filter_map(conflict).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{pod, policy, spec};
    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", 5)));
        index.apply_pod(pod("a", &[("app", "orders")]));
        index.apply_pod(pod("b", &[("app", "orders")]));
        index.flush();
        index
    }

    #[test]
    fn who_would_be_in_conflict() {
        let index = index();
        let newer = index.outlook(&policy("newer", 2, 1, spec("orders", "orders", 5)));
        assert_eq!((newer.pods, newer.conflicts.len()), (2, 1));
        assert!(newer.conflicts[0].starts_with("newer: the older policy orders has its place"), "{newer:?}");
        let older = index.outlook(&policy("older", 0, 1, spec("orders", "orders", 5)));
        assert!(older.conflicts[0].starts_with("orders: the older policy older has its place"), "{older:?}");
        let other = index.outlook(&policy("other", 2, 1, spec("orders", "audit", 5)));
        assert_eq!(other, Outlook { pods: 2, conflicts: vec![] });
        let nobody = index.outlook(&policy("nobody", 2, 1, spec("bills", "orders", 5)));
        assert_eq!(nobody, Outlook::default());
        let changed = index.outlook(&policy("orders", 1, 2, spec("orders", "orders", 6)));
        assert_eq!(changed, Outlook { pods: 2, conflicts: vec![] }, "it has its own place");
    }

    #[test]
    fn why_a_policy_is_not_given_to_a_pod() {
        let mut index = index();
        index.apply_policy(policy("newer", 2, 1, spec("orders", "orders", 5)));
        index.apply_policy(policy("wrong", 3, 1, spec("orders", "audit", -5)));
        index.flush();
        let labels = pod("c", &[("app", "orders")]).labels;
        let withheld = index.withheld("shop", &labels);
        assert_eq!(withheld.len(), 2, "{withheld:?}");
        assert_eq!([&withheld[0].name, &withheld[1].name], ["newer", "wrong"]);
        assert!(withheld[0].why.starts_with("the older policy orders has its place"), "{withheld:?}");
        assert!(withheld[1].why.starts_with("is not valid: spec.pool.size"), "{withheld:?}");
        let names: Vec<_> = index.matching("shop", &labels).iter().map(|policy| policy.key.name.clone()).collect();
        assert_eq!(names, ["orders"]);
        assert_eq!(index.withheld("elsewhere", &labels), []);
    }
}
