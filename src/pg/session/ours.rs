//! Batches of our own on a server that a client holds: the preface that makes a session that client's, and the audit
//! that asks what it carries.
//!
//! **The gate.** A preface travels in one write with the client's first batch and costs no round trip. What keeps that
//! batch from running on a session that was not made ready is the protocol's own rule: after an error a server skips
//! every message up to the next Sync. Each step prepares, as its last act, an empty statement under a name never used
//! before; the next step begins with a Describe of that statement, and so does, without a Sync of its own, the client's
//! batch. If anything failed the statement does not exist, the Describe fails, and what follows is skipped. A Describe
//! of an empty statement runs nothing, takes no snapshot and leaves no trace in the transaction that the client begins.
//!
//! Source: "Message Flow", "Extended Query" of the protocol chapter; `PostgresMain` (`ignore_till_sync`) and
//! `exec_describe_statement_message` in postgres.c.

use super::label::Label;
use crate::pg::exchange::{Exchange, Expect, Purpose};
use crate::pg::message;

/// Statements of our own, prepared once on each server that needs them. Every name in them is PostgreSQL's own wherever
/// the client's search_path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ours {
    /// Ends SET SESSION AUTHORIZATION and SET ROLE.
    Authorization,
    /// Back to what the session started with.
    Reset,
    /// Cursors.
    CloseAll,
    /// Channels.
    Unlisten,
    /// Session-level advisory locks.
    Unlock,
    /// Temporary objects.
    Temp,
    /// Connections that `postgres_fdw` keeps; its text comes from the catalog.
    Far,
    /// Last values of sequences.
    Sequences,
    /// Plans made under other settings.
    Plans,
    /// Statements prepared by SQL, and every other with them.
    Deallocate,
    /// One setting of a label.
    Set,
    /// A transaction whatever the client's defaults are: an audit takes no locks and waits for nobody.
    Begin,
    /// The audit's end.
    Rollback,
    /// Values of settings by name.
    AskSettings,
    /// Settings that this session has set.
    AskAllSettings,
    /// Channels.
    AskListen,
    /// Advisory locks.
    AskLocks,
    /// Cursors that outlive their transaction.
    AskCursors,
    /// Statements prepared by SQL.
    AskPrepared,
    /// Anything in the temporary schema; types and functions have no row in pg_class.
    AskTemporary,
}

impl Ours {
    fn sql(self) -> &'static str {
        match self {
            Self::Authorization => "SET SESSION AUTHORIZATION DEFAULT",
            Self::Reset => "RESET ALL",
            Self::CloseAll => "CLOSE ALL",
            Self::Unlisten => "UNLISTEN *",
            Self::Unlock => "SELECT pg_catalog.pg_advisory_unlock_all()",
            Self::Temp => "DISCARD TEMP",
            Self::Far => "",
            Self::Sequences => "DISCARD SEQUENCES",
            Self::Plans => "DISCARD PLANS",
            Self::Deallocate => "DEALLOCATE ALL",
            Self::Set => "SELECT pg_catalog.set_config($1, $2, false)",
            Self::Begin => "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE",
            Self::Rollback => "ROLLBACK",
            Self::AskSettings => {
                "SELECT 's', s.n, pg_catalog.current_setting(s.n, true) \
                 FROM pg_catalog.unnest($1::pg_catalog.text[]) AS s(n)"
            }
            Self::AskAllSettings => {
                "SELECT 's', s.name, pg_catalog.current_setting(s.name, true) FROM pg_catalog.pg_show_all_settings() AS s \
                 WHERE s.source OPERATOR(pg_catalog.=) 'session'"
            }
            Self::AskListen => "SELECT 'l', '', '' FROM pg_catalog.pg_listening_channels() LIMIT 1",
            Self::AskLocks => {
                "SELECT 'a', '', '' FROM pg_catalog.pg_lock_status() AS l \
                 WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' \
                 AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() LIMIT 1"
            }
            Self::AskCursors => "SELECT 'c', '', '' FROM pg_catalog.pg_cursor() AS c WHERE c.is_holdable LIMIT 1",
            Self::AskPrepared => {
                "SELECT 'p', '', '' FROM pg_catalog.pg_prepared_statement() AS p WHERE p.from_sql LIMIT 1"
            }
            Self::AskTemporary => {
                "SELECT 't', '', '' FROM pg_catalog.pg_depend AS d \
                 WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
                 AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() LIMIT 1"
            }
        }
    }
}

/// Of one server: which statements of ours it has, and under what names.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Random (128 bit): a client's SQL can't meet them by chance. None before the first.
    prefix: Option<Box<[u8]>>,
    /// Bits of [`Ours`].
    has: u32,
    /// Counts the gates: no name is used twice.
    gate: u64,
}

/// How much a scrub undoes beyond what each does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrub<'a> {
    /// Prepared statements too: routines of the database can make some.
    pub statements: bool,
    /// The statement that ends the connections that `postgres_fdw` keeps, where there may be some.
    pub disconnect: Option<&'a str>,
}

/// A batch being written.
struct Batch<'a> {
    prepared: &'a mut Prepared,
    exchange: &'a mut Exchange,
    out: &'a mut Vec<u8>,
    purpose: Purpose,
}

impl Prepared {
    /// SQL has deallocated them, or may have.
    pub fn forget(&mut self) {
        self.has = 0;
    }

    /// Makes the session one with this label, ahead of a client's batch. Without `scrub` it is proven to be as it started,
    /// but for values of sequences, which end with `sequences`.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn preface(
        &mut self,
        scrub: Option<Scrub<'_>>,
        sequences: bool,
        label: &Label,
        application: Option<&[u8]>,
        exchange: &mut Exchange,
        out: &mut Vec<u8>,
    ) -> Result<(), getrandom::Error> {
        let mut batch = self.batch(Purpose::Preface, exchange, out)?;
        if let Some(scrub) = scrub {
            // In a transaction of its own: what follows must not run under somebody's transaction defaults.
            batch.run(Ours::Authorization, &[]);
            batch.run(Ours::Reset, &[]);
            batch.open_gate();
            batch.sync();
            batch.pass_gate();
            for undo in [Ours::CloseAll, Ours::Unlisten, Ours::Unlock, Ours::Temp, Ours::Sequences, Ours::Plans] {
                batch.run(undo, &[]);
            }
            if let Some(sql) = scrub.disconnect {
                batch.run_text(Ours::Far, sql, &[]);
            }
        }
        if sequences && scrub.is_none() {
            batch.run(Ours::Sequences, &[]);
        }
        if let Some(name) = application {
            batch.run(Ours::Set, &[b"application_name", name]);
        }
        for (name, value) in label.settings() {
            batch.run(Ours::Set, &[name, value]);
        }
        if scrub.is_some_and(|scrub| scrub.statements) {
            // Last, as ours go with them; not behind the gate, where the client's batch would be a pipeline.
            batch.run(Ours::Deallocate, &[]);
            batch.prepared.has = 0;
        }
        batch.open_gate();
        batch.sync();
        batch.pass_gate();
        Ok(())
    }

    /// Asks about the session: rows of a kind, a name and a value.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn audit(
        &mut self,
        asks: &[Ours],
        names: &[u8],
        exchange: &mut Exchange,
        out: &mut Vec<u8>,
    ) -> Result<(), getrandom::Error> {
        let mut batch = self.batch(Purpose::Audit, exchange, out)?;
        batch.run(Ours::Begin, &[]);
        for ask in asks {
            match ask {
                Ours::AskSettings => batch.run(*ask, &[names]),
                _ => batch.run(*ask, &[]),
            }
        }
        batch.sync();
        // In a batch of its own, so that it runs whether or not the questions were answered.
        batch.run(Ours::Rollback, &[]);
        batch.sync();
        Ok(())
    }

    /// A statement of our own inside a client's batch, ahead of its next message; it shares that batch's fate.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn aside(&mut self, sql: &str, exchange: &mut Exchange, out: &mut Vec<u8>) -> Result<(), getrandom::Error> {
        let batch = self.batch(Purpose::Aside, exchange, out)?;
        batch.prepared.gate += 1;
        let name = batch.prepared.name("a", batch.prepared.gate);
        message::parse(batch.out, &name, sql.as_bytes(), &[0, 0]);
        message::bind(batch.out, &name, &name, &[]);
        message::execute(batch.out, &name);
        // Gone already if it was DEALLOCATE ALL, which is no error.
        message::close_statement(batch.out, &name);
        // A portal stays for the transaction otherwise.
        message::close_portal(batch.out, &name);
        for expect in [Expect::Parse, Expect::Bind, Expect::Execute, Expect::Close, Expect::Close] {
            batch.exchange.ours(expect, Purpose::Aside);
        }
        Ok(())
    }

    /// Closes every statement of ours: somebody is about to look at what is prepared.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn hide(
        &mut self,
        purpose: Purpose,
        exchange: &mut Exchange,
        out: &mut Vec<u8>,
    ) -> Result<(), getrandom::Error> {
        let has = std::mem::take(&mut self.has);
        let batch = self.batch(purpose, exchange, out)?;
        for which in (0..u32::BITS).filter(|bit| has & (1 << bit) != 0) {
            message::close_statement(batch.out, &batch.prepared.name("_", which.into()));
            batch.exchange.ours(Expect::Close, purpose);
        }
        Ok(())
    }

    fn batch<'a>(
        &'a mut self,
        purpose: Purpose,
        exchange: &'a mut Exchange,
        out: &'a mut Vec<u8>,
    ) -> Result<Batch<'a>, getrandom::Error> {
        if self.prefix.is_none() {
            self.prefix = Some(super::prepared::random_name()?);
        }
        Ok(Batch { prepared: self, exchange, out, purpose })
    }

    fn name(&self, suffix: &str, number: u64) -> Vec<u8> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        [prefix, suffix.as_bytes(), number.to_string().as_bytes()].concat()
    }
}

impl Batch<'_> {
    fn run(&mut self, which: Ours, parameters: &[&[u8]]) {
        self.run_text(which, which.sql(), parameters);
    }

    fn run_text(&mut self, which: Ours, sql: &str, parameters: &[&[u8]]) {
        let bit = 1 << (which as u32);
        let name = self.prepared.name("_", which as u64);
        if self.prepared.has & bit == 0 {
            self.prepared.has |= bit;
            // It may be there after all: a batch of a client's in which it was deallocated may have been skipped.
            message::close_statement(self.out, &name);
            self.exchange.ours(Expect::Close, self.purpose);
            message::parse(self.out, &name, sql.as_bytes(), &[0, 0]);
            self.exchange.ours(Expect::Parse, self.purpose);
        }
        message::bind(self.out, b"", &name, parameters);
        self.exchange.ours(Expect::Bind, self.purpose);
        message::execute(self.out, b"");
        self.exchange.ours(Expect::Execute, self.purpose);
    }

    fn open_gate(&mut self) {
        self.prepared.gate += 1;
        let name = self.prepared.name("g", self.prepared.gate);
        message::parse(self.out, &name, b"", &[0, 0]);
        self.exchange.ours(Expect::Parse, self.purpose);
    }

    fn pass_gate(&mut self) {
        let name = self.prepared.name("g", self.prepared.gate);
        message::describe_statement(self.out, &name);
        self.exchange.ours(Expect::DescribeStatement, self.purpose);
        message::close_statement(self.out, &name);
        self.exchange.ours(Expect::Close, self.purpose);
    }

    fn sync(&mut self) {
        message::sync(self.out);
        self.exchange.ours(Expect::Sync, self.purpose);
    }
}

/// A text array in PostgreSQL's external form.
pub fn text_array<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut array = vec![b'{'];
    for name in names {
        if array.len() > 1 {
            array.push(b',');
        }
        array.push(b'"');
        for byte in name {
            if matches!(byte, b'"' | b'\\') {
                array.push(b'\\');
            }
            array.push(*byte);
        }
        array.push(b'"');
    }
    array.push(b'}');
    array
}
