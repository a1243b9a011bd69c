//! Connections that a session opens to other servers: dblink's are named, postgres_fdw's are kept.

use super::{Group, Operation, outer};
use crate::judge::Kind;
use crate::session::{Session, Step};
use std::collections::BTreeSet;

/// All of them.
pub const ALL: &[Operation] = &[
    outer("dblink", Group::Far, dblink),
    outer("dblink list", Group::Far, list),
    outer("postgres_fdw", Group::Far, fdw),
];

fn dblink(session: &mut Session<'_>) -> Step {
    if session.model.is_other_role() {
        return super::queries::tagged(session);
    }
    if session.model.dblink {
        return list(session);
    }
    let (name, value, to) = (session.tag.clone(), session.value(), session.world.loopback.clone());
    // One statement: the connection, a setting on its far side, and what that says.
    session.ask(&format!("SELECT public.dblink_connect('{name}', '{to}')"))?;
    session.ask(&format!("SELECT public.dblink_exec('{name}', 'SET app.tag = ''{value}''')"))?;
    let sql = format!("SELECT v FROM public.dblink('{name}', 'SELECT current_setting(''app.tag'')') t (v text)");
    let rows = session.ask(&sql)?;
    // It reads rows in the far side's formats, and then sets its own again: PostgreSQL 13 reports both at once.
    let world = session.world;
    let passing =
        |name: &str, value: &str| matches!(name, "DateStyle" | "IntervalStyle") && value == world.default(name);
    session.told.retain(|(name, value, _)| !passing(name, value));
    session.must_be(&rows, &[&value])?;
    if session.dice.chance(50) {
        session.model.dblink = true;
        return list(session);
    }
    session.ask(&format!("SELECT public.dblink_disconnect('{name}')")).map(drop)
}

/// Named connections of this session: its own, or none.
fn list(session: &mut Session<'_>) -> Step {
    let rows = session.ask("SELECT coalesce(array_to_string(public.dblink_get_connections(), ' '), '')")?;
    let expected = if session.model.dblink { session.tag.clone() } else { String::new() };
    if session.model.dblink && Session::first(&rows) == Some("") {
        return Err(session.lost("dblink", "dblink's connection lost", ""));
    }
    session.must_be(&rows, &[&expected])
}

/// Servers to which this session keeps connections: its client's own, whatever server it is on.
fn fdw(session: &mut Session<'_>) -> Step {
    if session.model.is_other_role() {
        return super::queries::tagged(session);
    }
    let own = format!("far_{:03}", session.number);
    if session.dice.chance(60) {
        let rows = session.ask(&format!("SELECT name FROM public.{own}"))?;
        session.must_be(&rows, &["one"])?;
    }
    let rows = session.ask("SELECT server_name FROM public.postgres_fdw_get_connections()")?;
    let seen: BTreeSet<_> = rows.iter().filter_map(|row| row[0].clone()).collect();
    if seen.iter().all(|name| *name == own) {
        return Ok(());
    }
    Err(session.violated(Kind::Leak, "another's foreign connections", &format!("{seen:?} instead of {own}")))
}
