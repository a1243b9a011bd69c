//! What keeps the pools of a sidecar as its configuration has them: all of it but listeners, HTTP and the health probe.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::agent::Agent;
use super::database::Registered;
use super::link::{Bound, Facts, Link, Options, View};
use super::source::{Source, State};
use crate::pg::auth::scram::Salt;

/// The pools, and what they follow. By itself it is a sidecar that nobody can connect to, and costs neither thread nor
/// file descriptors if the source watches no files: many of them live in one process.
#[derive(Debug)]
pub struct Core {
    /// Databases and clients.
    pub registered: Arc<Registered>,
    /// The configuration.
    pub source: Source,
    /// One salt for all verifiers.
    pub salt: Salt,
    applied: watch::Receiver<u64>,
}

impl Core {
    /// Puts the source's configuration to work before this returns, and each that follows until `stop`. To be called
    /// on a worker's runtime; `workers` serve the databases.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn start(source: Source, workers: usize, stop: CancellationToken) -> Result<Self, getrandom::Error> {
        let (registered, salt) = (Arc::new(Registered::new()), Salt::random()?);
        let mut agent = Agent::new(Arc::clone(&registered), salt, workers, stop.clone());
        let (applied, states) = (agent.applied(), source.subscribe());
        let snapshot = Arc::clone(&states.borrow().snapshot);
        snapshot.policies.iter().for_each(|policy| agent.apply(policy));
        tokio::spawn(async move { stop.run_until_cancelled(agent.run(states)).await });
        Ok(Self { registered, source, salt, applied })
    }

    /// What is in force, and a way to wait for changes of it.
    pub fn states(&self) -> watch::Receiver<State> {
        self.source.subscribe()
    }

    /// A link that brings what the operator tells, and reports what runs. `view` shows how it stands; `draining` is
    /// cancelled once the sidecar is asked to end; `bound` is where clients may connect, if anywhere.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn link(
        &self,
        options: Options,
        view: Arc<View>,
        draining: CancellationToken,
        bound: Option<Bound>,
    ) -> Result<Link, getrandom::Error> {
        let registered = Arc::clone(&self.registered);
        let facts = Facts { registered, states: self.states(), applied: self.applied.clone(), draining, bound };
        Link::new(options, self.source.teller(), facts, view)
    }
}
