//! A PostgreSQL outside of the cluster, with TLS, for one test.

use serde_json::{Value, json};

use super::node::{Node, OUTSIDE};
use super::support::certs::Certs;
use super::support::pg::{PASSWORD, USER};
use super::support::{Options, Postgres};

/// A server with the database `orders`, in which the sample application keeps its books.
pub struct Database {
    pub postgres: Postgres,
    certs: Certs,
}

/// The database's name.
pub const NAME: &str = "orders";

impl Database {
    pub fn start(node: &Node) -> Self {
        Self::with(node, 200)
    }

    /// With so many `max_connections`, of which 3 are for superusers.
    pub fn with(node: &Node, max_connections: u32) -> Self {
        let certs = Certs::new();
        certs.issue(&["localhost", OUTSIDE]);
        let options =
            Options { tls: certs.for_postgres(), max_connections, place: Some(node.place()), ..Options::default() };
        let postgres = Postgres::start(&options);
        postgres.admin("postgres").query(&format!("CREATE DATABASE {NAME} OWNER {USER}")).unwrap();
        let database = Self { postgres, certs };
        for sql in [
            "CREATE TABLE ledger (account text PRIMARY KEY, n bigint NOT NULL)",
            "CREATE TABLE runs (name text, done bigint, failed bigint, report text)",
            "CREATE TABLE notes (text text)",
            "GRANT ALL ON ledger, runs, notes TO PUBLIC",
        ] {
            database.admin(sql);
        }
        database
    }

    /// Runs a statement as the superuser, past the pool: its rows.
    pub fn admin(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.postgres.admin(NAME).query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// One number.
    #[track_caller]
    pub fn count(&self, sql: &str) -> i64 {
        self.admin(sql)[0][0].as_ref().map_or(0, |text| text.parse().unwrap())
    }

    /// Server connections of the role that applications have.
    pub fn servers(&self) -> i64 {
        self.count(&format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'"))
    }

    /// The credentials' Secret.
    pub fn credentials(&self) -> Value {
        json!({ "username": USER, "password": PASSWORD })
    }

    /// The Secret with the authority of its certificate.
    pub fn authority(&self) -> Value {
        json!({ "ca.crt": std::fs::read_to_string(self.certs.path("ca.crt")).unwrap() })
    }

    /// A policy for pods labelled `app: APP`, with the Secrets `orders-db` and `orders-db-ca`.
    pub fn policy(&self, app: &str) -> Value {
        json!({
            "selector": { "matchLabels": { "app": app } },
            "database": {
                "host": OUTSIDE, "port": self.postgres.port, "name": NAME,
                "credentials": { "secretName": "orders-db" },
                "tls": { "mode": "VerifyFull", "caSecretName": "orders-db-ca" },
            },
        })
    }

    /// Every result that an application wrote when it ended: its name, transactions done and failed, and its report.
    pub fn runs(&self) -> Vec<(String, i64, i64, String)> {
        let rows = self.admin("SELECT name, done, failed, report FROM runs ORDER BY name");
        let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
        let number = |cell: &Option<String>| text(cell).parse().unwrap();
        rows.iter().map(|row| (text(&row[0]), number(&row[1]), number(&row[2]), text(&row[3]))).collect()
    }
}
