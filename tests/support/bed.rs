//! What most cases need: a database of their own and something to connect to.

use super::pg::{self, Postgres};
use super::policy::Policy;
use super::sidecar::Sidecar;
use super::wire::{Client, Connect};
use std::sync::Arc;

/// A database and, unless `POOLKEEPER_TESTS_DIRECT=1` is set, a sidecar before it.
pub struct Bed {
    // Before the server, so that it is dropped first.
    sidecar: Option<Sidecar>,
    /// The server.
    pub pg: Arc<Postgres>,
    /// The database's name on the server.
    pub database: String,
}

impl Bed {
    /// Transaction mode with the preset Production.
    pub fn new() -> Self {
        Self::with(|policy| policy)
    }

    /// Transaction mode with so many servers and no overflow.
    pub fn sized(size: u32) -> Self {
        Self::with(|policy| policy.set("pool.size", size).set("pool.maxOverflow", 0))
    }

    /// With a changed policy.
    pub fn with(change: impl FnOnce(Policy) -> Policy) -> Self {
        Self::on(Postgres::shared(), change)
    }

    /// On this server.
    pub fn on(pg: Arc<Postgres>, change: impl FnOnce(Policy) -> Policy) -> Self {
        let database = pg.create_database();
        let policy = change(Policy::new(pg.port, &database));
        let sidecar = (!is_direct()).then(|| Sidecar::start(&policy));
        Self { sidecar, pg, database }
    }

    /// How to reach the database: through the sidecar, if there is one.
    pub fn connect(&self) -> Connect {
        self.sidecar.as_ref().map_or_else(|| self.pg.connect(&self.database), Sidecar::connect)
    }

    /// A client that has logged in.
    #[track_caller]
    pub fn client(&self) -> Client {
        self.connect().open().unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// An administrator's session, past the sidecar.
    pub fn admin(&self) -> Client {
        self.pg.admin(&self.database)
    }

    /// The sidecar, or None when the tests run directly on PostgreSQL: a case that is about the pool
    /// has nothing to show there.
    pub fn sidecar(&self) -> Option<&Sidecar> {
        self.sidecar.as_ref()
    }

    /// The sidecar, to change it.
    pub fn sidecar_mut(&mut self) -> Option<&mut Sidecar> {
        self.sidecar.as_mut()
    }

    /// Process ids of the servers open to this database, whoever opened them.
    pub fn backends(&self) -> Vec<u32> {
        self.pg.backends(&self.database)
    }

    /// Runs statements as the owner of the database, past the sidecar.
    #[track_caller]
    pub fn setup(&self, sql: &str) {
        let mut client = Connect::unix(&self.pg.socket()).user(pg::USER).database(&self.database).open().unwrap();
        client.rows(sql);
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the tests run on PostgreSQL itself.
pub fn is_direct() -> bool {
    std::env::var_os("POOLKEEPER_TESTS_DIRECT").is_some_and(|value| value == "1")
}
