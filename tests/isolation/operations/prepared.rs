//! Statements of the protocol: named, unnamed, shared in text, and read under different settings.

use super::queries::{noon, place};
use super::{Group, Operation, inner, outer};
use crate::judge::Kind;
use crate::model::{Kind as What, Prepared};
use crate::session::{Session, Step};
use crate::support::fe;
use std::collections::BTreeSet;

/// All of them.
pub const ALL: &[Operation] = &[
    outer("Parse", Group::Plain, parse),
    inner("Bind", Group::Plain, run),
    inner("Bind", Group::Plain, run),
    outer("Describe", Group::Plain, describe),
    outer("Close", Group::Plain, close),
    outer("Bind of nothing", Group::Plain, nothing),
    outer("Parse and Bind, pipelined", Group::Plain, at_once),
    outer("portal in pieces", Group::Plain, portal),
    outer("pg_prepared_statements", Group::Plain, listed),
    outer("EXPLAIN EXECUTE", Group::Plain, explained),
];

const NAMES: [&str; 4] = ["s1", "s2", "s3", "s4"];

fn statement(session: &mut Session<'_>) -> (String, Prepared) {
    let text = session.value();
    let model = &session.model;
    let zones = BTreeSet::from([model.shown("TimeZone", session.world.default("TimeZone")).to_owned()]);
    let styles = BTreeSet::from([model.shown("DateStyle", session.world.default("DateStyle")).to_owned()]);
    let (kind, sql) = match session.dice.below(7) {
        0 | 1 => (What::Tagged, format!("SELECT '{text}', $1::text")),
        2 => (What::Shared, "SELECT $1::text, $1::text".to_owned()),
        3 => (What::Zone, "SELECT extract(epoch FROM '2020-01-01 12:00'::timestamptz)::bigint, $1::text".to_owned()),
        4 => (What::Style, "SELECT '02/01/2020'::date = make_date(2020, 1, 2), $1::text".to_owned()),
        5 => (What::Path, "SELECT name, $1::text FROM place".to_owned()),
        _ => (What::Settings, "SELECT coalesce(current_setting('app.tag', true), ''), $1::text".to_owned()),
    };
    (sql, Prepared { kind, text, zones, styles })
}

fn parse(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&NAMES);
    if session.model.prepared.contains_key(name) {
        return run(session);
    }
    let (sql, prepared) = statement(session);
    session.note(&format!("Parse {name}: {sql}"));
    let reply = session.exchange(&fe::all(&[fe::parse(name, &sql, &[]), fe::sync()]), 1)?;
    session.all_well(reply)?;
    session.model.prepared.insert(name.into(), prepared);
    run_it(session, name)
}

fn run(session: &mut Session<'_>) -> Step {
    let names: Vec<_> = session.model.prepared.keys().cloned().collect();
    if names.is_empty() {
        return super::queries::tagged(session);
    }
    let name = session.dice.pick(&names).clone();
    run_it(session, &name)
}

fn run_it(session: &mut Session<'_>, name: &str) -> Step {
    let value = session.value();
    session.note(&format!("Bind {name} with {value}"));
    let reply = session.exchange(&fe::run(name, &[&value]), 1)?;
    if reply.errors.iter().any(|error| error.code == "26000") {
        return Err(session.violated(Kind::Carry, "prepared statement lost", name));
    }
    let rows = session.all_well(reply)?;
    judge(session, name, &rows, &value)
}

fn judge(session: &mut Session<'_>, name: &str, rows: &crate::session::Rows, value: &str) -> Step {
    let prepared = session.model.prepared[name].clone();
    let seen = Session::first(rows).unwrap_or_default().to_owned();
    let right = rows.len() == 1 && rows[0].last().and_then(Option::as_deref) == Some(value);
    if !right {
        let details = format!("{rows:?} for {value}");
        return Err(session.violated(Kind::Leak, "a wrong answer of a prepared statement", &details));
    }
    let path = session.model.shown("search_path", session.world.default("search_path")).to_owned();
    let expected: Vec<String> = match prepared.kind {
        What::Tagged => vec![prepared.text],
        What::Shared => vec![value.to_owned()],
        What::Zone => prepared.zones.iter().map(|zone| noon(zone).to_string()).collect(),
        What::Style => prepared.styles.iter().map(|s| if s.contains("MDY") { "f" } else { "t" }.to_owned()).collect(),
        What::Path => vec![place(&path).to_owned()],
        What::Settings => vec![session.model.custom("app.tag").unwrap_or_default()],
    };
    if expected.contains(&seen) {
        return Ok(());
    }
    let details = format!("{name}, {:?}: {seen:?} instead of {expected:?}", prepared.kind);
    let key = match prepared.kind {
        What::Path => "search_path",
        What::Settings => "app.tag",
        _ => {
            return Err(session.violated(
                Kind::Leak,
                &format!("another's {:?} in a prepared statement", prepared.kind),
                &details,
            ));
        }
    };
    let own =
        seen.is_empty() || seen == "public" || session.model.past.get(key).is_some_and(|past| past.contains(&seen));
    let what = format!("{key} wrong in a prepared statement");
    Err(if own { session.lost(key, &what, &details) } else { session.violated(Kind::Leak, &what, &details) })
}

fn describe(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&NAMES);
    session.note(&format!("Describe {name}"));
    let reply = session.exchange(&fe::all(&[fe::describe(name), fe::sync()]), 1)?;
    let known = session.model.prepared.contains_key(name);
    match reply.errors.first() {
        Some(error) if error.code == "26000" && !known => Ok(()),
        Some(error) if error.code == "26000" => Err(session.violated(Kind::Carry, "prepared statement lost", name)),
        Some(error) => Err(session.unexpected(&error.clone())),
        None if known => Ok(()),
        None => Err(session.violated(Kind::Leak, "another's prepared statement", name)),
    }
}

fn close(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&NAMES);
    session.note(&format!("Close {name}"));
    let reply = session.exchange(&fe::all(&[fe::close(name), fe::sync()]), 1)?;
    session.all_well(reply)?;
    session.model.prepared.remove(name);
    Ok(())
}

/// A name that this session has not prepared is nobody's.
fn nothing(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&NAMES);
    if session.model.prepared.contains_key(name) {
        return run_it(session, name);
    }
    session.note(&format!("Bind {name}, which is not there"));
    let reply = session.exchange(&fe::run(name, &["x"]), 1)?;
    match reply.errors.first() {
        Some(error) if error.code == "26000" => Ok(()),
        Some(error) => Err(session.unexpected(&error.clone())),
        None => Err(session.violated(Kind::Leak, "another's prepared statement", &format!("{name}: {:?}", reply.rows))),
    }
}

/// Parse, runs and Close in one write.
fn at_once(session: &mut Session<'_>) -> Step {
    let name = "p";
    let (sql, prepared) = statement(session);
    let (one, two) = (session.value(), session.value());
    session.note(&format!("Parse, Bind twice, Close: {sql}"));
    let close = fe::close(name);
    let runs = [&one, &two].map(|value| fe::all(&[fe::bind("", name, &[value]), fe::execute("")])).concat();
    let reply = session.exchange(&fe::all(&[fe::parse(name, &sql, &[]), runs, close, fe::sync()]), 1)?;
    let rows = session.all_well(reply)?;
    session.model.prepared.insert(name.into(), prepared);
    let verdict =
        rows.iter().zip([&one, &two]).try_for_each(|(row, value)| judge(session, name, &vec![row.clone()], value));
    session.model.prepared.remove(name);
    verdict?;
    if rows.len() == 2 {
        Ok(())
    } else {
        Err(session.violated(Kind::Leak, "wrong number of answers", &format!("{rows:?}")))
    }
}

/// Statements of the protocol by the names that this session has for them, and nobody else's.
fn listed(session: &mut Session<'_>) -> Step {
    let sql = "SELECT name FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql";
    let rows = session.ask(sql)?;
    let seen: BTreeSet<_> = rows.iter().filter_map(|row| row[0].clone()).collect();
    let own = &session.model.prepared;
    let details = format!("{seen:?} instead of {:?}", own.keys());
    if !seen.iter().all(|name| own.contains_key(name)) {
        return Err(session.violated(Kind::Leak, "another's prepared statement in the list", &details));
    }
    // One whose table is out of sight now could not be prepared again.
    if own.iter().any(|(name, prepared)| prepared.kind != What::Path && !seen.contains(name)) {
        return Err(session.violated(Kind::Carry, "prepared statement not in the list", &details));
    }
    Ok(())
}

fn explained(session: &mut Session<'_>) -> Step {
    let names: Vec<_> = session.model.prepared.iter().filter(|(_, p)| p.kind != What::Path).map(|(n, _)| n).collect();
    if names.is_empty() {
        return super::queries::tagged(session);
    }
    let name = (*session.dice.pick(&names)).clone();
    let rows = session.ask(&format!("EXPLAIN (COSTS OFF) EXECUTE {name}('x')"))?;
    session.must_be(&rows, &["Result"])
}

/// A portal fetched in pieces with Flush between them.
fn portal(session: &mut Session<'_>) -> Step {
    let value = session.value();
    session.note("a portal in pieces");
    let sql = "SELECT $1::text FROM generate_series(1, 5)";
    session.send(&fe::all(&[
        fe::parse("", sql, &[]),
        fe::bind("c", "", &[&value]),
        fe::execute_some("c", 2),
        fe::flush(),
    ]));
    let first = session.read(b"sEZ", 1)?;
    if let Some(error) = first.errors.first().cloned() {
        let reply = session.exchange(&fe::sync(), 1)?;
        drop(reply);
        return if error.code == "53300" { Ok(()) } else { Err(session.unexpected(&error)) };
    }
    let rest = session.exchange(&fe::all(&[fe::execute("c"), fe::sync()]), 1)?;
    let rest = session.all_well(rest)?;
    let all: Vec<_> = first.rows.iter().chain(&rest).map(|row| row[0].clone().unwrap_or_default()).collect();
    if all == vec![value.clone(); 5] {
        return Ok(());
    }
    Err(session.violated(Kind::Leak, "a wrong portal", &format!("{all:?} instead of {value}")))
}
