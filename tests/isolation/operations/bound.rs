//! What only the server has on which it was made: temporary objects, session locks, channels, cursors, SQL PREPARE,
//! last values of sequences, series of random numbers.

use super::{Group, Operation, inner, outer};
use crate::bench::{SEEDS, seed_argument};
use crate::session::{Halt, Session, Step};

/// All of them.
pub const ALL: &[Operation] = &[
    inner("temporary table", Group::Bound, table),
    inner("temporary table by INTO", Group::Bound, into),
    outer("temporary table by SET LOCAL", Group::Bound, local_path),
    inner("temporary view", Group::Bound, view),
    inner("temporary function", Group::Bound, function),
    inner("temporary domain", Group::Bound, domain),
    inner("temporary type", Group::Bound, enumeration),
    outer("DROP of a temporary table", Group::Bound, drop_table),
    outer("DISCARD TEMP", Group::Bound, discard_temp),
    outer("advisory lock", Group::Bound, lock),
    outer("unlock", Group::Bound, unlock),
    inner("LISTEN", Group::Bound, listen),
    inner("UNLISTEN", Group::Bound, unlisten),
    outer("NOTIFY", Group::Bound, notify),
    outer("NOTIFY everybody", Group::Bound, notify_all),
    outer("holdable cursor", Group::Bound, cursor),
    outer("FETCH", Group::Bound, fetch),
    outer("SQL PREPARE", Group::Bound, prepare),
    outer("SQL EXECUTE", Group::Bound, execute),
    outer("SQL DEALLOCATE", Group::Bound, deallocate),
    outer("nextval", Group::Bound, nextval),
    outer("nextval and currval", Group::Bound, both_values),
    outer("setseed", Group::Bound, setseed),
];

/// Whether this session may make and drop temporary objects now, as their owner.
fn owns(session: &Session<'_>) -> bool {
    !session.model.is_other_role()
}

fn table(session: &mut Session<'_>) -> Step {
    if session.model.now.scratch.is_some() || !owns(session) {
        return super::queries::scratch(session);
    }
    let value = session.value();
    let word = *session.dice.pick(&["TEMP", "TEMPORARY", "LOCAL TEMP"]);
    session.simple(&format!(
        "CREATE {word} TABLE scratch AS SELECT '{value}'::text AS tag; GRANT ALL ON scratch TO PUBLIC"
    ))?;
    session.model.now.scratch = Some(value);
    session.model.hidden.remove("temporary");
    super::queries::scratch(session)
}

fn into(session: &mut Session<'_>) -> Step {
    if session.model.now.scratch.is_some() || !owns(session) {
        return super::queries::scratch(session);
    }
    let value = session.value();
    session.simple(&format!("SELECT '{value}'::text AS tag INTO TEMP scratch; GRANT ALL ON scratch TO PUBLIC"))?;
    session.model.now.scratch = Some(value);
    session.model.hidden.remove("temporary");
    Ok(())
}

fn local_path(session: &mut Session<'_>) -> Step {
    if session.model.now.scratch.is_some() || !owns(session) {
        return super::queries::scratch(session);
    }
    let value = session.value();
    session.ask("BEGIN")?;
    session.model.begin();
    session.ask("SET LOCAL search_path = pg_temp")?;
    session
        .simple(&format!("CREATE TABLE scratch AS SELECT '{value}'::text AS tag; GRANT ALL ON scratch TO PUBLIC"))?;
    session.model.now.scratch = Some(value);
    session.model.hidden.remove("temporary");
    session.ask("COMMIT")?;
    session.model.commit();
    super::queries::scratch(session)
}

/// Makes a temporary object with a name of its own.
fn make(session: &mut Session<'_>, kind: &str, sql: &str) -> Step {
    if !owns(session) {
        return super::queries::tagged(session);
    }
    session.serial += 1;
    let name = format!("{}_{}", session.tag, session.serial);
    session.ask(&sql.replace("NAME", &name).replace("TAG", &session.tag.clone()))?;
    session.model.now.temporary.insert(format!("{kind}:{name}"));
    Ok(())
}

fn view(session: &mut Session<'_>) -> Step {
    make(session, "r", "CREATE TEMP VIEW NAME AS SELECT 'TAG'::text AS tag")
}

fn function(session: &mut Session<'_>) -> Step {
    make(session, "f", "CREATE FUNCTION pg_temp.NAME() RETURNS text LANGUAGE sql AS $$SELECT 'TAG'::text$$")
}

fn domain(session: &mut Session<'_>) -> Step {
    make(session, "t", "CREATE DOMAIN pg_temp.NAME AS text CHECK (VALUE <> 'TAG')")
}

fn enumeration(session: &mut Session<'_>) -> Step {
    make(session, "t", "CREATE TYPE pg_temp.NAME AS ENUM ('TAG')")
}

fn drop_table(session: &mut Session<'_>) -> Step {
    if session.model.now.scratch.is_none() || !owns(session) {
        return super::queries::tagged(session);
    }
    session.ask("DROP TABLE pg_temp.scratch")?;
    session.model.now.scratch = None;
    super::queries::scratch(session)
}

fn discard_temp(session: &mut Session<'_>) -> Step {
    session.ask("DISCARD TEMP")?;
    session.model.now.scratch = None;
    session.model.now.temporary.clear();
    Ok(())
}

fn lock(session: &mut Session<'_>) -> Step {
    let key = (u32::try_from(session.number).unwrap() + 1, u32::try_from(session.dice.below(3)).unwrap());
    // Once is enough: locks of one session stack.
    if session.model.locks.contains(&key) {
        return super::queries::tagged(session);
    }
    let name = *session.dice.pick(&["pg_advisory_lock", "pg_try_advisory_lock", "pg_advisory_lock_shared"]);
    session.ask(&format!("SELECT {name}({}, {})", key.0, key.1))?;
    session.model.locks.insert(key);
    session.model.hidden.remove("locks");
    Ok(())
}

fn unlock(session: &mut Session<'_>) -> Step {
    session.ask("SELECT pg_advisory_unlock_all()")?;
    session.model.locks.clear();
    Ok(())
}

fn listen(session: &mut Session<'_>) -> Step {
    let own = format!("ch_{}", session.tag);
    let channel = if session.dice.chance(70) { own } else { "everybody".into() };
    session.ask(&format!("LISTEN {channel}"))?;
    session.model.now.channels.insert(channel);
    session.model.hidden.remove("channels");
    Ok(())
}

fn unlisten(session: &mut Session<'_>) -> Step {
    let Some(channel) = session.model.now.channels.iter().next().cloned() else {
        return session.ask("UNLISTEN *").map(drop);
    };
    session.ask(&format!("UNLISTEN {channel}"))?;
    session.model.now.channels.remove(&channel);
    Ok(())
}

/// To itself: what is heard comes before the end of the next exchange.
fn notify(session: &mut Session<'_>) -> Step {
    let (channel, value) = (format!("ch_{}", session.tag), session.value());
    session.heard.clear();
    session.ask(&format!("NOTIFY {channel}, '{value}'"))?;
    let listens = session.model.now.channels.contains(&channel);
    session.ask("SELECT 'heard?'")?;
    let heard = std::mem::take(&mut session.heard);
    let own = heard.iter().filter(|(found, _)| *found == channel).map(|(_, payload)| payload).collect::<Vec<_>>();
    if listens && own != [&value] {
        let details = format!("{own:?} instead of {value}");
        return Err(session.lost("channels", "a notification lost", &details));
    }
    Ok(())
}

fn notify_all(session: &mut Session<'_>) -> Step {
    let value = session.value();
    session.ask(&format!("SELECT pg_notify('everybody', '{value} everybody')")).map(drop)
}

fn cursor(session: &mut Session<'_>) -> Step {
    let name = "held";
    if session.model.now.cursors.contains_key(name) {
        return fetch(session);
    }
    let value = session.value();
    session
        .ask(&format!("DECLARE {name} CURSOR WITH HOLD FOR SELECT '{value}'::text FROM generate_series(1, 1000)"))?;
    session.model.now.cursors.insert(name.into(), value);
    session.model.hidden.remove("cursors");
    Ok(())
}

fn fetch(session: &mut Session<'_>) -> Step {
    let Some(value) = session.model.now.cursors.get("held").cloned() else {
        return session.must_fail("FETCH 1 FROM held", &["34000"]);
    };
    match session.attempt("FETCH 1 FROM held")? {
        // At its end it has nothing more.
        Ok(rows) if rows.is_empty() => Ok(()),
        Ok(rows) => session.must_be(&rows, &[&value]),
        Err(error) if error.code == "34000" => Err(session.lost("cursors", "holdable cursor lost", "")),
        Err(error) => Err(session.unexpected(&error)),
    }
}

fn prepare(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&["stmt", "other"]);
    if session.model.sql_prepared.contains_key(name) {
        return execute(session);
    }
    let value = session.value();
    session.ask(&format!("PREPARE {name} AS SELECT '{value}'::text"))?;
    session.model.sql_prepared.insert(name.into(), value);
    session.model.hidden.remove("prepared");
    Ok(())
}

fn execute(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&["stmt", "other"]);
    let Some(value) = session.model.sql_prepared.get(name).cloned() else {
        return session.must_fail(&format!("EXECUTE {name}"), &["26000"]);
    };
    match session.attempt(&format!("EXECUTE {name}"))? {
        Ok(rows) => session.must_be(&rows, &[&value]),
        Err(error) if error.code == "26000" => Err(session.lost("prepared", "SQL-prepared statement lost", "")),
        Err(error) => Err(session.unexpected(&error)),
    }
}

fn deallocate(session: &mut Session<'_>) -> Step {
    if session.dice.chance(40) {
        session.ask("DEALLOCATE ALL")?;
        session.model.sql_prepared.clear();
        session.model.prepared.clear();
        return Ok(());
    }
    let Some(name) = session.model.sql_prepared.keys().next().cloned() else {
        return session.must_fail("DEALLOCATE stmt", &["26000"]);
    };
    match session.attempt(&format!("DEALLOCATE {name}"))? {
        Ok(_) => drop(session.model.sql_prepared.remove(&name)),
        Err(error) if error.code == "26000" => return Err(session.lost("prepared", "SQL-prepared statement lost", "")),
        Err(error) => return Err(session.unexpected(&error)),
    }
    Ok(())
}

fn nextval(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&["tickets", "invoices"]);
    let rows = session.ask(&format!("SELECT nextval('public.{name}')"))?;
    let value = Session::first(&rows).and_then(|text| text.parse().ok()).unwrap_or_default();
    session.model.sequences.insert(name, value);
    session.model.last_value = Some(value);
    Ok(())
}

/// As programs do it: draws and asks in the next transaction.
fn both_values(session: &mut Session<'_>) -> Step {
    nextval(session)?;
    super::queries::currval(session)
}

fn setseed(session: &mut Session<'_>) -> Step {
    let series = session.number * SEEDS + session.dice.below(SEEDS);
    session.ask(&format!("SELECT setseed({})", seed_argument(series)))?;
    session.model.seed = Some((series, 0));
    session.model.hidden.remove("seed");
    super::queries::random(session)?;
    if session.dice.chance(40) {
        // The next client of this server must not go on with the series.
        return Err(Halt::Leave(super::vanish::leave(session).into()));
    }
    Ok(())
}
