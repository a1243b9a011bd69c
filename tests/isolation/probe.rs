//! Looks at everything that a session shows, in one statement, and holds it against the model.
//!
//! The text names none of the words by which a pooler may know that a statement leaves something behind: it must be an
//! ordinary question, since a client that asks only such ones is the one that meets other clients' state.

use crate::judge::Kind;
use crate::marks::foreign_tags;
use crate::model::CUSTOM;
use crate::session::{REPORTED, Session, Step};
use crate::support::fe;
use std::collections::{BTreeMap, BTreeSet};

/// Settings that PostgreSQL changes itself, or that are asked for by name.
const IGNORED: [&str; 6] = [
    "application_name",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
    "client_connection_check_interval",
    "in_hot_standby",
];

/// Settings of which is asked where RESET would lead.
const BEGINNINGS: [&str; 6] = ["TimeZone", "DateStyle", "work_mem", "search_path", "client_encoding", "lock_timeout"];

fn text() -> String {
    format!(
        "SELECT pg_backend_pid(), current_user, session_user, current_setting('application_name'), \
         s.changed, s.beginnings, \
         (SELECT string_agg(n || '=' || coalesce(encode(convert_to(current_setting(n, true), 'UTF8'), 'hex'), '~'), chr(10)) \
          FROM unnest('{{{}}}'::text[]) n), \
         (SELECT string_agg(o, chr(10)) FROM ( \
           SELECT 'r:' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind IN ('r', 'v') \
           UNION ALL SELECT 'f:' || proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema() \
           UNION ALL SELECT 't:' || typname FROM pg_type WHERE typnamespace = pg_my_temp_schema() AND typtype IN ('d', 'e')) t (o)), \
         (SELECT string_agg(classid || '.' || objid, chr(10)) FROM pg_locks WHERE locktype LIKE 'adv%' AND pid = pg_backend_pid()), \
         (SELECT string_agg(c, chr(10)) FROM pg_listening_channels() c), \
         (SELECT string_agg(name, chr(10)) FROM pg_cursor() WHERE is_holdable), \
         (SELECT string_agg(name, chr(10)) FROM pg_prepared_statement() WHERE from_sql) \
         FROM (SELECT string_agg(name || '=' || setting, chr(10)) FILTER (WHERE setting IS DISTINCT FROM reset_val) AS changed, \
                      string_agg(name || '=' || reset_val, chr(10)) FILTER (WHERE name = ANY ('{{{}}}')) AS beginnings \
               FROM pg_show_all_settings()) s",
        CUSTOM.join(","),
        BEGINNINGS.join(",")
    )
}

fn lines(column: Option<&String>) -> BTreeSet<String> {
    column.map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
}

fn pairs(column: Option<&String>) -> BTreeMap<String, String> {
    let lines = column.map(String::as_str).unwrap_or_default().split('\n').filter(|line| !line.is_empty());
    lines.filter_map(|line| line.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

fn unhex(text: &str) -> String {
    let bytes = (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect();
    String::from_utf8(bytes).unwrap()
}

/// Asks and compares.
pub fn probe(session: &mut Session<'_>) -> Step {
    let operation = std::mem::replace(&mut session.operation, "probe");
    let result = look(session);
    if result.is_ok() {
        session.operation = operation;
    }
    result
}

fn look(session: &mut Session<'_>) -> Step {
    let text = text();
    let bytes = if session.dice.chance(50) { fe::query(&text) } else { fe::extended(&text, &[]) };
    let reply = session.exchange(&bytes, 1)?;
    let rows = session.all_well(reply)?;
    let row = &rows[0];
    let column = |at: usize| row[at].clone();
    session.backend = column(0).unwrap_or_default();
    let backend = session.backend.clone();
    session.note(&format!("on server {backend}"));
    names(session, column(1), column(2), column(3))?;
    settings(session, pairs(column(4).as_ref()), &pairs(column(5).as_ref()))?;
    custom(session, &pairs(column(6).as_ref()))?;
    let mut temporary = session.model.now.temporary.clone();
    if session.model.now.scratch.is_some() {
        temporary.insert("r:scratch".into());
    }
    same(session, "temporary objects", "temporary", &lines(column(7).as_ref()), &temporary)?;
    let locks = session.model.locks.iter().map(|(a, b)| format!("{a}.{b}")).collect();
    same(session, "advisory locks", "locks", &lines(column(8).as_ref()), &locks)?;
    // LISTEN takes effect at commit.
    let listening = session.model.saved.as_ref().map_or(&session.model.now, |saved| saved).channels.clone();
    same(session, "channels", "channels", &lines(column(9).as_ref()), &listening)?;
    let cursors = session.model.now.cursors.keys().cloned().collect();
    same(session, "holdable cursors", "cursors", &lines(column(10).as_ref()), &cursors)?;
    let prepared = session.model.sql_prepared.keys().cloned().collect();
    same(session, "SQL-prepared statements", "prepared", &lines(column(11).as_ref()), &prepared)?;
    parameters(session)
}

fn names(session: &mut Session<'_>, user: Option<String>, login: Option<String>, name: Option<String>) -> Step {
    let own = session.world.connect.user.clone();
    let model = &session.model.now;
    let expected_login = model.authorization.clone().unwrap_or_else(|| own.clone());
    let expected = model.role.clone().unwrap_or_else(|| expected_login.clone());
    let expected_name = session.model.shown("application_name", "").to_owned();
    let trio = [
        ("role", "current_user", user.unwrap_or_default(), expected, own.clone()),
        ("role", "session_user", login.unwrap_or_default(), expected_login, own),
        ("application_name", "application_name", name.unwrap_or_default(), expected_name, String::new()),
    ];
    for (key, what, seen, expected, began) in trio {
        if seen == expected {
            continue;
        }
        let details = format!("{what} is {seen:?} instead of {expected:?}");
        let past = session.model.past.get(key).is_some_and(|past| past.contains(&seen));
        if seen == began || past || seen == session.tag {
            return Err(session.lost(key, &format!("{what} lost"), &details));
        }
        return Err(session.violated(Kind::Leak, &format!("another's {what}"), &details));
    }
    Ok(())
}

fn settings(session: &mut Session<'_>, mut seen: BTreeMap<String, String>, reset: &BTreeMap<String, String>) -> Step {
    IGNORED.iter().for_each(|name| drop(seen.remove(*name)));
    for (name, value) in reset {
        let began = session.model.startup.settings.get(name).cloned();
        let began = began.unwrap_or_else(|| session.world.default(name).to_owned());
        if *value != began {
            let details = format!("RESET {name} would lead to {value:?} instead of {began:?}");
            return Err(session.violated(Kind::Leak, &format!("another's beginning of {name}"), &details));
        }
    }
    let names: BTreeSet<String> =
        seen.keys().chain(session.model.now.settings.keys()).chain(session.model.now.local.keys()).cloned().collect();
    for name in names.iter().filter(|name| !IGNORED.contains(&name.as_str())) {
        let began = session.model.startup.settings.get(name).cloned();
        let began = began.unwrap_or_else(|| session.world.default(name).to_owned());
        let expected = session.model.setting(name).cloned().unwrap_or_else(|| began.clone());
        let value = seen.get(name).cloned().unwrap_or_else(|| began.clone());
        if value == expected {
            continue;
        }
        let details = format!("{name} is {value:?} instead of {expected:?}");
        let past = session.model.past.get(name).is_some_and(|past| past.contains(&value));
        if value == began || past {
            return Err(session.lost(name, &format!("{name} lost"), &details));
        }
        return Err(session.violated(Kind::Leak, &format!("another's {name}"), &details));
    }
    Ok(())
}

fn custom(session: &mut Session<'_>, seen: &BTreeMap<String, String>) -> Step {
    for name in CUSTOM {
        let value = seen.get(name).filter(|value| *value != "~").map(|hex| unhex(hex));
        let expected = session.model.custom(name);
        if value == expected {
            continue;
        }
        let details = format!("{name} is {value:?} instead of {expected:?}");
        let empty = value.as_deref().unwrap_or_default().is_empty();
        if empty && expected.as_deref().unwrap_or_default().is_empty() {
            if value.is_some() && !session.model.touched(name) {
                session.report(Kind::Trace, &format!("a trace of another's {name}"), &details);
                session.model.past.entry(name.into()).or_default();
            }
            continue;
        }
        let text = value.as_deref().unwrap_or_default();
        let past = session.model.past.get(name).is_some_and(|past| past.contains(text)) || text.contains(&session.tag);
        if empty || past {
            return Err(session.lost(name, &format!("{name} lost"), &details));
        }
        return Err(session.violated(Kind::Leak, &format!("another's {name}"), &details));
    }
    Ok(())
}

fn same(
    session: &mut Session<'_>,
    what: &str,
    key: &str,
    seen: &BTreeSet<String>,
    expected: &BTreeSet<String>,
) -> Step {
    if seen == expected {
        return Ok(());
    }
    let details = format!("{what}: {seen:?} instead of {expected:?}");
    let foreign = seen.iter().any(|name| !foreign_tags(name.as_bytes(), &session.tag).is_empty());
    if foreign || !seen.is_subset(expected) {
        return Err(session.violated(Kind::Leak, &format!("another's {what}"), &details));
    }
    Err(session.lost(key, &format!("{what} lost"), &details))
}

/// What the server has reported is what holds.
fn parameters(session: &mut Session<'_>) -> Step {
    for name in REPORTED {
        let expected = session.shown(name);
        let Some(told) = session.client.parameter(name).map(str::to_owned) else { continue };
        if told != expected && !session.model.hidden.contains(name) {
            let details = format!("the last ParameterStatus of {name} says {told:?}, and it is {expected:?}");
            return Err(session.violated(Kind::Carry, &format!("ParameterStatus of {name} missing"), &details));
        }
    }
    Ok(())
}
