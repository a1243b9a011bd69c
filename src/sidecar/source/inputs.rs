//! One reading of everything that makes a configuration: all of it is right, or every problem is told.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::environment::{self, Environment};
use super::secrets::{Secrets, Trouble};
use super::{Finding, ListenFiles, Policy, Snapshot, files, told};
use crate::api::resolve::{self, Listen, Problem, Resolved};
use crate::contract;

/// What a configuration is read from.
#[derive(Debug)]
pub struct Inputs {
    policies: Policies,
    environment: Environment,
    secrets: Secrets,
}

/// Where policies come from.
#[derive(Debug)]
pub enum Policies {
    /// A file or a directory.
    Files(PathBuf),
    /// The environment: one.
    Environment,
    /// The operator; `None` before it told anything.
    Told(Option<Arc<contract::Configuration>>),
}

/// A policy that is valid by itself.
struct Candidate {
    origin: String,
    resolved: Resolved,
    told: Option<Arc<contract::Policy>>,
}

/// The policies of one reading, before credentials are looked for.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    /// Those that stay as they are because the operator said so.
    kept: Vec<Policy>,
    findings: Vec<Finding>,
}

impl Inputs {
    /// Nothing is read yet.
    pub fn new(policies: Policies, secrets_dir: Option<PathBuf>, environment: Environment) -> Self {
        let secrets = Secrets::new(secrets_dir, environment.login());
        Self { policies, environment, secrets }
    }

    /// From now on, this is what the operator told.
    pub fn tell(&mut self, configuration: contract::Configuration) {
        self.policies = Policies::Told(Some(Arc::new(configuration)));
    }

    /// What the operator told last.
    pub fn told(&self) -> Option<&Arc<contract::Configuration>> {
        match &self.policies {
            Policies::Told(told) => told.as_ref(),
            _ => None,
        }
    }

    /// What is strange about the environment, but no problem.
    pub fn warnings(&self) -> Vec<String> {
        if let Policies::Environment = self.policies {
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
        let Found { candidates, kept, mut findings } = self.found(current)?;
        let first = candidates.first().map(|policy| (policy.resolved.listen.clone(), policy.resolved.shutdown_grace));
        let before = || current.map(|current| (current.listen.clone(), current.shutdown_grace));
        let Some((listen, shutdown_grace)) = first.or_else(before) else {
            // A policy that is wrong is a better reason than that there is none.
            return Err(if findings.is_empty() { vec![self.nothing()] } else { findings });
        };
        let tls_origin = candidates.first().map_or_else(String::new, |policy| policy.origin.clone());
        let mut policies = self.attach(candidates, current, now, &mut findings);
        let tls = self.tls(&listen, current).unwrap_or_else(|troubles| {
            findings.extend(troubles.into_iter().map(|trouble| finding(&tls_origin, trouble)));
            None
        });
        if !findings.is_empty() {
            return Err(findings);
        }
        policies.extend(kept.iter().map(|policy| Policy { orphaned: false, ..self.refreshed(policy, now) }));
        policies.extend(self.orphans(&policies, current, now));
        policies.sort_by(|a, b| a.key().cmp(&b.key()));
        Ok(Snapshot { policies, listen, tls, shutdown_grace })
    }

    fn nothing(&self) -> Finding {
        let path = match &self.policies {
            Policies::Files(path) => path.display().to_string(),
            _ => String::new(),
        };
        let message = "holds no policy: give a file, or a directory with files that end in .yaml, .yml or .json";
        Finding::new(path, Problem::new("", message))
    }

    /// The same policies with credentials and certificates as they are now; those that can't be read stay as they were.
    pub fn refresh(&self, current: &Snapshot, now: Instant) -> Snapshot {
        let policies = current.policies.iter().map(|policy| self.refreshed(policy, now)).collect();
        let tls = self.tls(&current.listen, Some(current)).unwrap_or_else(|_| current.tls.clone());
        Snapshot { policies, tls, ..current.clone() }
    }

    /// The policies that one sidecar can serve together.
    ///
    /// # Errors
    /// What keeps files and environment from being read to the end.
    fn found(&self, current: Option<&Snapshot>) -> Result<Found, Vec<Finding>> {
        let candidate = |(origin, resolved)| Candidate { origin, resolved, told: None };
        let mut found = match &self.policies {
            Policies::Files(path) => {
                let candidates = files::policies(path)?.into_iter().map(candidate).collect();
                Found { candidates, ..Found::default() }
            }
            Policies::Environment => {
                let policy = (environment::ORIGIN.to_owned(), self.environment.policy()?.0);
                Found { candidates: vec![candidate(policy)], ..Found::default() }
            }
            Policies::Told(told) => found_told(told.iter().flat_map(|told| &told.policies), current),
        };
        let key = |policy: &Candidate| (policy.resolved.namespace.clone(), policy.resolved.name.clone());
        found.candidates.sort_by_cached_key(key);
        let conflicts = resolve::conflicts(&found.candidates.iter().map(|policy| &policy.resolved).collect::<Vec<_>>());
        let conflicts = conflicts.into_iter().chain(taken(&found));
        let conflicts: Vec<_> =
            conflicts.map(|(i, problem)| Finding::new(&found.candidates[i].origin, problem)).collect();
        found.findings.extend(conflicts);
        Ok(found)
    }

    /// Adds their credentials to policies; tells of those that lack something.
    fn attach(
        &self,
        candidates: Vec<Candidate>,
        current: Option<&Snapshot>,
        now: Instant,
        findings: &mut Vec<Finding>,
    ) -> Vec<Policy> {
        let mut policies = Vec::new();
        for Candidate { origin, resolved, told } in candidates {
            let before = current.and_then(|current| current.get(&resolved.namespace, &resolved.name));
            match self.secrets.credentials(&resolved, before.map(|policy| &*policy.credentials), now) {
                Ok(credentials) => policies.push(Policy {
                    resolved: shared(resolved, before.map(|policy| &policy.resolved)),
                    credentials: shared(credentials, before.map(|policy| &policy.credentials)),
                    origin,
                    told,
                    orphaned: false,
                }),
                Err(troubles) => findings.extend(troubles.into_iter().map(|trouble| finding(&origin, trouble))),
            }
        }
        policies
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

    fn tls(&self, listen: &Listen, current: Option<&Snapshot>) -> Result<Option<Arc<ListenFiles>>, Vec<Trouble>> {
        let Some(tls) = &listen.tls else { return Ok(None) };
        let files = self.secrets.listen(tls)?;
        Ok(Some(shared(files, current.and_then(|current| current.tls.as_ref()))))
    }
}

/// The policies that the operator told, each valid by itself; one without `spec` stays as it runs.
fn found_told<'a>(told: impl Iterator<Item = &'a contract::Policy>, current: Option<&Snapshot>) -> Found {
    let mut found = Found::default();
    for policy in told {
        let origin = told::origin(&policy.namespace, &policy.name);
        let Some(spec) = &policy.spec else {
            let runs = current.and_then(|current| current.get(&policy.namespace, &policy.name));
            let same = runs.filter(|runs| runs.told.as_ref().is_some_and(|told| told.uid == policy.uid));
            found.kept.extend(same.cloned());
            continue;
        };
        match told::resolve(policy, spec) {
            Ok(resolved) => {
                found.candidates.push(Candidate { origin, resolved, told: Some(Arc::new(policy.clone())) });
            }
            Err(problems) => found.findings.extend(problems.into_iter().map(|problem| Finding::new(&origin, problem))),
        }
    }
    found
}

/// Candidates whose alias a policy has that stays as it is.
fn taken(found: &Found) -> Vec<(usize, Problem)> {
    let alias = |policy: &Resolved| policy.database.alias.clone();
    let kept: HashMap<_, _> = found.kept.iter().map(|policy| (alias(&policy.resolved), policy.key())).collect();
    let taken = found.candidates.iter().enumerate().filter_map(|(index, policy)| {
        let (namespace, name) = kept.get(&alias(&policy.resolved))?;
        let message = format!("{namespace}/{name} is served under this name: set database.alias of one");
        Some((index, Problem::new("spec.database.alias", message)))
    });
    taken.collect()
}

fn finding(origin: &str, Trouble { problem, fault }: Trouble) -> Finding {
    Finding { file: origin.to_owned(), problem, fault }
}

/// The value before if it is equal, so that readers see by the pointer that nothing changed.
fn shared<T: PartialEq>(value: T, before: Option<&Arc<T>>) -> Arc<T> {
    before.filter(|before| ***before == value).map_or_else(|| Arc::new(value), Arc::clone)
}
