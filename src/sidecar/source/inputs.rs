//! One reading of everything that makes a configuration: all of it is right, or every problem is told.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::environment::{self, Environment};
use super::secrets::Secrets;
use super::{Finding, ListenFiles, Policy, Snapshot, files};
use crate::api::resolve::{self, Listen, Problem, Resolved};

/// What a configuration is read from.
pub struct Inputs {
    policies: Option<PathBuf>,
    environment: Environment,
    secrets: Secrets,
}

impl Inputs {
    /// Nothing is read yet.
    pub fn new(policies: Option<PathBuf>, secrets_dir: Option<PathBuf>, environment: Environment) -> Self {
        let secrets = Secrets::new(secrets_dir, environment.login());
        Self { policies, environment, secrets }
    }

    /// What is strange about the environment, but no problem.
    pub fn warnings(&self) -> Vec<String> {
        if self.policies.is_none() {
            return self.environment.policy().map(|(_, warnings)| warnings).unwrap_or_default();
        }
        let overruled = self.environment.overruled().into_iter();
        overruled.map(|name| format!("{name} is not used: a policy wins over the environment")).collect()
    }

    /// Reads everything. What of `current` didn't change is shared with it, and its policies that are gone stay.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn read(&self, current: Option<&Snapshot>, now: Instant) -> Result<Snapshot, Vec<Finding>> {
        let found = self.found()?;
        let first = found.first().map(|(_, policy)| (policy.listen.clone(), policy.shutdown_grace));
        let kept = || current.map(|current| (current.listen.clone(), current.shutdown_grace));
        let Some((listen, shutdown_grace)) = first.or_else(kept) else {
            let path = self.policies.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            let message = "holds no policy: give a file, or a directory with files that end in .yaml, .yml or .json";
            return Err(vec![Finding { file: path, problem: Problem::new("", message) }]);
        };
        let tls_origin = found.first().map_or_else(String::new, |(origin, _)| origin.clone());
        let tls = self.tls(&listen, current).map_err(|problems| findings(&tls_origin, problems));
        match (self.attach(found, current, now), tls) {
            (Ok(mut policies), Ok(tls)) => {
                policies.extend(self.orphans(&policies, current, now));
                policies.sort_by(|a, b| a.key().cmp(&b.key()));
                Ok(Snapshot { policies, listen, tls, shutdown_grace })
            }
            (policies, tls) => {
                let mut all = policies.err().unwrap_or_default();
                all.extend(tls.err().unwrap_or_default());
                Err(all)
            }
        }
    }

    /// The same policies with credentials and certificates as they are now; those that can't be read stay as they were.
    pub fn refresh(&self, current: &Snapshot, now: Instant) -> Snapshot {
        let policies = current.policies.iter().map(|policy| self.refreshed(policy, now)).collect();
        let tls = self.tls(&current.listen, Some(current)).unwrap_or_else(|_| current.tls.clone());
        Snapshot { policies, tls, ..current.clone() }
    }

    /// The policies of the files or of the environment, which one sidecar can serve together.
    fn found(&self) -> Result<Vec<(String, Resolved)>, Vec<Finding>> {
        let mut found = match &self.policies {
            Some(path) => files::policies(path)?,
            None => vec![(environment::ORIGIN.to_owned(), self.environment.policy()?.0)],
        };
        found.sort_by(|(_, a), (_, b)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let conflicts = resolve::conflicts(&found.iter().map(|(_, policy)| policy).collect::<Vec<_>>());
        if conflicts.is_empty() {
            return Ok(found);
        }
        Err(conflicts.into_iter().map(|(i, problem)| Finding { file: found[i].0.clone(), problem }).collect())
    }

    /// Adds their credentials to policies.
    fn attach(
        &self,
        found: Vec<(String, Resolved)>,
        current: Option<&Snapshot>,
        now: Instant,
    ) -> Result<Vec<Policy>, Vec<Finding>> {
        let (mut policies, mut all) = (Vec::new(), Vec::new());
        for (origin, resolved) in found {
            let key = (resolved.namespace.as_str(), resolved.name.as_str());
            let before = current.and_then(|current| current.policies.iter().find(|policy| policy.key() == key));
            match self.secrets.credentials(&resolved, before.map(|policy| &*policy.credentials), now) {
                Ok(credentials) => policies.push(Policy {
                    resolved: shared(resolved, before.map(|policy| &policy.resolved)),
                    credentials: shared(credentials, before.map(|policy| &policy.credentials)),
                    origin,
                    orphaned: false,
                }),
                Err(problems) => all.extend(findings(&origin, problems)),
            }
        }
        if all.is_empty() { Ok(policies) } else { Err(all) }
    }

    /// Policies that are gone, but for those whose name or alias another one has now.
    fn orphans(&self, live: &[Policy], current: Option<&Snapshot>, now: Instant) -> Vec<Policy> {
        let keys: HashSet<_> = live.iter().map(Policy::key).collect();
        let aliases: HashSet<_> = live.iter().map(|policy| policy.resolved.database.alias.as_str()).collect();
        let gone = current.into_iter().flat_map(|current| &current.policies).filter(|policy| {
            !keys.contains(&policy.key()) && !aliases.contains(policy.resolved.database.alias.as_str())
        });
        gone.map(|policy| Policy { orphaned: true, ..self.refreshed(policy, now) }).collect()
    }

    fn refreshed(&self, policy: &Policy, now: Instant) -> Policy {
        let credentials = self.secrets.credentials(&policy.resolved, Some(&policy.credentials), now);
        match credentials {
            Ok(credentials) => Policy { credentials: shared(credentials, Some(&policy.credentials)), ..policy.clone() },
            Err(_) => policy.clone(),
        }
    }

    fn tls(&self, listen: &Listen, current: Option<&Snapshot>) -> Result<Option<Arc<ListenFiles>>, Vec<Problem>> {
        let Some(tls) = &listen.tls else { return Ok(None) };
        let files = self.secrets.listen(tls)?;
        Ok(Some(shared(files, current.and_then(|current| current.tls.as_ref()))))
    }
}

fn findings(origin: &str, problems: Vec<Problem>) -> Vec<Finding> {
    problems.into_iter().map(|problem| Finding { file: origin.to_owned(), problem }).collect()
}

/// The value before if it is equal, so that readers see by the pointer that nothing changed.
fn shared<T: PartialEq>(value: T, before: Option<&Arc<T>>) -> Arc<T> {
    before.filter(|before| ***before == value).map_or_else(|| Arc::new(value), Arc::clone)
}
