//! Settings and roles, by every statement that changes them in plain sight.

use super::{Group, Operation, inner, outer};
use crate::bench;
use crate::judge::Kind;
use crate::model::CUSTOM;
use crate::probe;
use crate::session::{Halt, Session, Step};
use crate::support::fe;

/// All of them.
pub const ALL: &[Operation] = &[
    inner("SET", Group::Settings, set),
    inner("SET of a custom name", Group::Settings, set_custom),
    inner("set_config", Group::Settings, set_config),
    inner("set_config by parameter", Group::Settings, set_config_by_parameter),
    inner("UPDATE pg_settings", Group::Settings, update),
    inner("SET TIME ZONE", Group::Settings, set_zone),
    inner("SET DateStyle", Group::Settings, set_style),
    inner("SET search_path", Group::Settings, set_path),
    inner("SET application_name", Group::Settings, set_name),
    inner("SET ROLE", Group::Settings, set_role),
    inner("RESET ROLE", Group::Settings, reset_role),
    inner("RESET", Group::Settings, reset),
    outer("RESET ALL", Group::Settings, reset_all),
    outer("DISCARD ALL", Group::Settings, discard_all),
    outer("SET client_encoding", Group::Settings, encoding),
    outer("read only", Group::Settings, read_only),
    outer("SET SESSION AUTHORIZATION", Group::Settings, authorization),
    outer("a role that is dropped", Group::Settings, doomed_role),
    outer("a setting that becomes invalid", Group::Settings, doomed_setting),
    outer("spelled with U&", Group::Settings, unicode),
    outer("pipelined SET", Group::Settings, pipelined),
];

/// A time zone with this session's tag and an offset that no other client's has.
pub fn zone(session: &mut Session<'_>) -> String {
    // Whole minutes: a database of time zones that counts leap seconds is refused.
    let minutes = session.number * 15 + session.dice.below(15) + 1;
    // In capitals, as PostgreSQL shows it.
    format!("<{}>-{:02}:{:02}", session.tag.to_uppercase(), minutes / 60, minutes % 60)
}

/// An ordinary setting and a value for it that is this client's alone.
fn number(session: &mut Session<'_>) -> (&'static str, String) {
    let own = session.number * 100 + session.dice.below(100);
    match session.dice.below(5) {
        0 => ("work_mem", (10_000 + own).to_string()),
        1 => ("statement_timeout", (600_000 + own).to_string()),
        2 => ("lock_timeout", (700_000 + own).to_string()),
        3 => ("idle_in_transaction_session_timeout", (800_000 + own).to_string()),
        _ => ("from_collapse_limit", (100 + own).to_string()),
    }
}

fn changed(session: &mut Session<'_>, name: &str, value: &str) {
    session.model.set(name, value);
    session.model.hidden.remove(name);
}

fn set(session: &mut Session<'_>) -> Step {
    let (name, value) = number(session);
    let word = *session.dice.pick(&["SET", "SET SESSION", "/* hi */ set", "-- a comment\nSet"]);
    session.ask(&format!("{word} {name} = {value}"))?;
    changed(session, name, &value);
    Ok(())
}

fn custom(session: &mut Session<'_>) -> (&'static str, String) {
    // The last name is set at start-up only.
    let name = *session.dice.pick(&CUSTOM[..4]);
    (name, session.value())
}

fn set_custom(session: &mut Session<'_>) -> Step {
    let (name, value) = custom(session);
    session.ask(&format!("SET {name} = '{value}'"))?;
    custom_changed(session, name, &value);
    Ok(())
}

fn custom_changed(session: &mut Session<'_>, name: &'static str, value: &str) {
    session.model.set_custom(name, value);
    session.model.hidden.remove(name);
}

fn set_config(session: &mut Session<'_>) -> Step {
    let (name, value) = custom(session);
    let rows = session.ask(&format!("SELECT pg_catalog.set_config('{name}', '{value}', false)"))?;
    custom_changed(session, name, &value);
    session.must_be(&rows, &[&value])
}

fn set_config_by_parameter(session: &mut Session<'_>) -> Step {
    if session.dice.chance(50) {
        let (name, value) = number(session);
        session.extended("SELECT set_config($1, $2, false)", &[name, &value])?;
        changed(session, name, &value);
    } else {
        let (name, value) = custom(session);
        session.extended("SELECT set_config($1, $2, $3::bool)", &[name, &value, "false"])?;
        custom_changed(session, name, &value);
    }
    Ok(())
}

fn update(session: &mut Session<'_>) -> Step {
    let (name, value) = number(session);
    session.ask(&format!("UPDATE pg_settings SET setting = '{value}' WHERE name = '{name}'"))?;
    changed(session, name, &value);
    Ok(())
}

fn set_zone(session: &mut Session<'_>) -> Step {
    let zone = zone(session);
    let sql = if session.dice.chance(50) { "SET TIME ZONE" } else { "SET TimeZone =" };
    session.ask(&format!("{sql} '{zone}'"))?;
    changed(session, "TimeZone", &zone);
    Ok(())
}

fn set_style(session: &mut Session<'_>) -> Step {
    let style = *session.dice.pick(&["ISO, DMY", "SQL, DMY", "German, DMY", "Postgres, MDY", "SQL, MDY"]);
    session.ask(&format!("SET datestyle = '{style}'"))?;
    changed(session, "DateStyle", style);
    Ok(())
}

fn set_path(session: &mut Session<'_>) -> Step {
    let schema = *session.dice.pick(&["one", "two", "three"]);
    let path = format!("\"We, ird\", {}, {schema}, public", session.tag);
    session.ask(&format!("SET search_path = {path}"))?;
    changed(session, "search_path", &path);
    Ok(())
}

fn set_name(session: &mut Session<'_>) -> Step {
    let name = session.value();
    session.ask(&format!("SET application_name = '{name}'"))?;
    changed(session, "application_name", &name);
    Ok(())
}

fn set_role(session: &mut Session<'_>) -> Step {
    let role = bench::role(session.number);
    let sql = match session.dice.below(3) {
        0 => format!("SET ROLE {role}"),
        1 => format!("SET SESSION ROLE '{role}'"),
        _ => format!("SELECT set_config('role', '{role}', false)"),
    };
    session.ask(&sql)?;
    session.model.now.role = Some(role);
    session.model.hidden.remove("role");
    Ok(())
}

fn reset_role(session: &mut Session<'_>) -> Step {
    let sql = *session.dice.pick(&["RESET ROLE", "SET ROLE NONE"]);
    session.ask(sql)?;
    session.model.now.role = None;
    session.model.hidden.remove("role");
    Ok(())
}

fn reset(session: &mut Session<'_>) -> Step {
    let set: Vec<_> = session.model.now.settings.keys().cloned().collect();
    if set.is_empty() || session.dice.chance(30) {
        let name = *session.dice.pick(&CUSTOM[..4]);
        session.ask(&format!("RESET {name}"))?;
        session.model.set_custom(name, "");
        session.model.hidden.remove(name);
        return Ok(());
    }
    let name = session.dice.pick(&set).clone();
    let sql = *session.dice.pick(&["RESET ", "SET "]);
    session.ask(&if sql == "RESET " { format!("RESET {name}") } else { format!("SET {name} TO DEFAULT") })?;
    let default = if name == "application_name" { "" } else { session.world.default(&name) }.to_owned();
    session.model.reset(&name, &default);
    Ok(())
}

fn after_reset_all(session: &mut Session<'_>) {
    for name in ["TimeZone", "DateStyle"] {
        let default = session.world.default(name).to_owned();
        session.model.reset(name, &default);
    }
    session.model.hidden.retain(|key| !key.contains('.') && !session.world.defaults.contains_key(key));
}

fn reset_all(session: &mut Session<'_>) -> Step {
    session.ask("RESET ALL")?;
    session.model.reset_all();
    after_reset_all(session);
    probe::probe(session)
}

fn discard_all(session: &mut Session<'_>) -> Step {
    session.ask("DISCARD ALL")?;
    session.model.discard_all();
    after_reset_all(session);
    probe::probe(session)
}

/// Text in LATIN1 bytes: what it becomes in the database tells the encoding that the server believes in.
fn encoding(session: &mut Session<'_>) -> Step {
    let own = if session.dice.chance(70) { "LATIN1" } else { "UTF8" };
    session.ask(&format!("SET client_encoding = '{own}'"))?;
    changed(session, "client_encoding", own);
    for _ in 0..2 {
        let letter: &[u8] = if own == "LATIN1" { b"\xe9" } else { "é".as_bytes() };
        let sql = [
            b"SELECT ascii('" as &[u8],
            letter,
            b"'), set_config('app.who', '",
            letter,
            session.tag.as_bytes(),
            b"', false) IS NULL\0",
        ];
        session.note("é in the encoding of the moment, set as app.who");
        let reply = session.exchange(&fe::message(b'Q', &sql.concat()), 1)?;
        session.model.set_custom("app.who", &format!("é{}", session.tag));
        session.model.hidden.remove("app.who");
        let rows = session.all_well(reply)?;
        if Session::first(&rows) != Some("233") {
            let details = format!("é is {rows:?} in {own}");
            return Err(session.violated(Kind::Carry, "client_encoding lost", &details));
        }
        if session.dice.chance(50) {
            probe::probe(session)?;
        }
    }
    Ok(())
}

/// A default for transactions that makes others fail if they meet it.
fn read_only(session: &mut Session<'_>) -> Step {
    session.ask("SET default_transaction_read_only = on")?;
    changed(session, "default_transaction_read_only", "on");
    let value = session.value();
    match session.attempt(&format!("INSERT INTO public.copied VALUES ('{value}', 0)"))? {
        Err(error) if error.code == "25006" => {}
        Err(error) => return Err(session.unexpected(&error)),
        Ok(_) => return Err(session.violated(Kind::Carry, "default_transaction_read_only lost", "a write worked")),
    }
    session.ask("RESET default_transaction_read_only")?;
    session.model.reset("default_transaction_read_only", "off");
    Ok(())
}

/// For superusers; others may only become themselves.
fn authorization(session: &mut Session<'_>) -> Step {
    if !session.world.scenario.superuser {
        let own = session.world.connect.user.clone();
        session.ask(&format!("SET SESSION AUTHORIZATION {own}"))?;
        session.model.now.role = None;
        return Ok(());
    }
    if session.dice.chance(40) {
        session.ask("RESET SESSION AUTHORIZATION")?;
        session.model.now.authorization = None;
    } else {
        let role = bench::role(session.number);
        session.ask(&format!("SET SESSION AUTHORIZATION {role}"))?;
        session.model.now.authorization = Some(role);
    }
    // Either ends a SET ROLE.
    session.model.now.role = None;
    session.model.hidden.remove("role");
    probe::probe(session)
}

/// What cannot be set again on another server: everything runs under it, or there is a clean end.
fn doomed(session: &mut Session<'_>, name: &str, expected: &str) -> Step {
    session.doomed = true;
    for _ in 0..3 {
        let value = session.value();
        let sql = format!("SELECT '{value}', current_setting('{name}')");
        let count = 1 + session.dice.below(3);
        session.note(&format!("{count} times {sql}"));
        let bytes = if session.dice.chance(50) { fe::query(&sql) } else { fe::extended(&sql, &[]) };
        let reply = match session.exchange(&bytes.repeat(count), count) {
            Err(Halt::Skip) => continue,
            other => other?,
        };
        for row in &reply.rows {
            session.must_be(&vec![row.clone()], &[&value, expected])?;
        }
        if let Some(error) = reply.errors.first() {
            return Err(Halt::Leave(format!("no adaptation {}", error.code)));
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Err(Halt::Leave("what cannot be set again".into()))
}

fn doomed_role(session: &mut Session<'_>) -> Step {
    if session.model.now.authorization.is_some() {
        return super::queries::tagged(session);
    }
    // Roles are the server's, and scenarios share that.
    let role = format!("doomed_{}_{}", session.world.seed, session.tag);
    let user = session.world.connect.user.clone();
    session.world.admin.lock().unwrap().rows(&format!("CREATE ROLE {role}; GRANT {role} TO {user}"));
    let set = session.ask(&format!("SET ROLE {role}"));
    session.world.admin.lock().unwrap().rows(&format!("DROP ROLE {role}"));
    set?;
    session.model.now.role = Some(role.clone());
    doomed(session, "role", &role)
}

fn doomed_setting(session: &mut Session<'_>) -> Step {
    let name = format!("doomed_{}", session.tag);
    let admin = |sql: String| drop(session.world.admin.lock().unwrap().rows(&sql));
    admin(format!("CREATE TEXT SEARCH CONFIGURATION public.{name} (COPY = pg_catalog.simple)"));
    let set = session.ask(&format!("SET default_text_search_config = 'public.{name}'"));
    session.world.admin.lock().unwrap().rows(&format!("DROP TEXT SEARCH CONFIGURATION public.{name}"));
    set?;
    doomed(session, "default_text_search_config", &format!("public.{name}"))
}

/// set_config in a spelling that no word list finds.
fn unicode(session: &mut Session<'_>) -> Step {
    let (name, value) = custom(session);
    session.ask(&format!(r#"SELECT U&"set\005fconfig"('{name}', '{value}', false)"#))?;
    custom_changed(session, name, &value);
    Ok(())
}

/// Several settings in one write, each with a Sync of its own, and a question behind them.
fn pipelined(session: &mut Session<'_>) -> Step {
    let ((one, first), (two, second)) = (number(session), custom(session));
    let one_way = session.dice.chance(50);
    let sqls =
        [format!("SET {one} = {first}"), format!("SET {two} = '{second}'"), format!("SELECT current_setting('{two}')")];
    session.note(&sqls.join("; "));
    let parts = sqls.map(|sql| if one_way { fe::query(&sql) } else { fe::extended(&sql, &[]) });
    let reply = session.exchange(&parts.concat(), 3)?;
    changed(session, one, &first);
    custom_changed(session, two, &second);
    let rows = session.all_well(reply)?;
    session.must_be(&rows, &[&second])
}
