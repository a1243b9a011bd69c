//! Questions that leave nothing behind, and what may answer them.

use super::{Group, Operation, inner, outer};
use crate::judge::Kind;
use crate::session::{Session, Step};
use crate::support::fe;

/// All of them.
pub const ALL: &[Operation] = &[
    inner("tagged query", Group::Plain, tagged),
    inner("tagged parameter", Group::Plain, parameter),
    inner("pipeline", Group::Plain, pipeline),
    outer("pipeline with errors", Group::Plain, broken_pipeline),
    inner("notice", Group::Plain, notice),
    outer("error", Group::Plain, error),
    inner("settings by SHOW", Group::Plain, show),
    inner("settings by name", Group::Plain, by_name),
    inner("literal time", Group::Plain, literal_time),
    inner("cached time", Group::Plain, cached_time),
    inner("cached date", Group::Plain, cached_date),
    inner("path", Group::Plain, path),
    outer("write", Group::Plain, write),
    inner("scratch", Group::Plain, scratch),
    outer("random", Group::Plain, random),
    outer("currval", Group::Plain, currval),
    outer("execute of nothing", Group::Plain, execute_nothing),
    outer("cancel", Group::Plain, cancel),
    outer("cancel too late", Group::Plain, cancel_late),
    outer("cancel too late", Group::Plain, cancel_late),
    outer("slow query", Group::Plain, slow),
    outer("long answer", Group::Plain, long),
];

/// The least that a session can do, also in place of what makes no sense for it now.
pub fn tagged(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let rows = session.ask(&format!("SELECT '{value}', 1 + 1"))?;
    session.must_be(&rows, &[&value, "2"])
}

fn parameter(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let rows = session.extended("SELECT $1::text || '!', $2::int", &[&value, "7"])?;
    session.must_be(&rows, &[&format!("{value}!"), "7"])
}

fn batch(value: &str) -> Vec<u8> {
    fe::all(&[fe::parse("", "SELECT $1::text", &[]), fe::bind("", "", &[value]), fe::execute("")])
}

fn pipeline(session: &mut Session<'_>) -> Step {
    let syncs = 1 + session.dice.below(3);
    let (mut bytes, mut expected) = (vec![], vec![]);
    for _ in 0..syncs {
        for _ in 0..1 + session.dice.below(4) {
            let value = session.value();
            bytes.extend(batch(&value));
            expected.push(value);
        }
        bytes.extend(fe::sync());
    }
    session.note(&format!("a pipeline of {} queries and {syncs} Syncs", expected.len()));
    let reply = session.exchange(&bytes, syncs)?;
    let rows = session.all_well(reply)?;
    let got: Vec<_> = rows.iter().map(|row| row[0].clone().unwrap_or_default()).collect();
    if got == expected {
        return Ok(());
    }
    Err(session.violated(Kind::Leak, "a wrong answer to a pipeline", &format!("{got:?} instead of {expected:?}")))
}

fn broken_pipeline(session: &mut Session<'_>) -> Step {
    let (first, lost, last) = (session.value(), session.value(), session.value());
    let parts = [
        batch(&first),
        fe::all(&[
            fe::parse("", &format!("SELECT fail('{}')", session.tag), &[]),
            fe::bind("", "", &[]),
            fe::execute(""),
        ]),
        batch(&lost),
        fe::sync(),
        batch(&last),
        fe::sync(),
    ];
    session.note("a pipeline with an error in its middle");
    let reply = session.exchange(&parts.concat(), 2)?;
    let got: Vec<_> = reply.rows.iter().map(|row| row[0].clone().unwrap_or_default()).collect();
    let codes: Vec<_> = reply.errors.iter().map(|error| error.code.as_str()).collect();
    if got == [first, last] && codes == ["P0001"] {
        return Ok(());
    }
    match reply.errors.iter().find(|error| error.code != "P0001") {
        Some(error) => Err(session.unexpected(&error.clone())),
        None => Err(session.violated(Kind::Leak, "a wrong answer to a broken pipeline", &format!("{got:?} {codes:?}"))),
    }
}

fn notice(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let rows = session.ask(&format!("SELECT public.say('{value}')"))?;
    let notices = std::mem::take(&mut session.notices);
    session.must_be(&rows, &[&value])?;
    if notices != [format!("said {value}")] {
        return Err(session.violated(Kind::Leak, "wrong notices", &format!("{notices:?} instead of {value}")));
    }
    Ok(())
}

fn error(session: &mut Session<'_>) -> Step {
    let value = session.value();
    match session.attempt(&format!("SELECT public.fail('{value}')"))? {
        Err(error) if error.code == "P0001" && error.message == format!("failed {value}") => Ok(()),
        Err(error) => Err(session.unexpected(&error)),
        Ok(rows) => Err(session.violated(Kind::Leak, "an answer in place of an error", &format!("{rows:?}"))),
    }
}

const SHOWN: [&str; 6] = ["work_mem", "TimeZone", "DateStyle", "search_path", "statement_timeout", "lock_timeout"];

/// `SHOW` has units and the probe has none: only what a session has not set is compared here.
fn show(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&SHOWN);
    let rows = session.ask(&format!("SHOW {name}"))?;
    if ["TimeZone", "DateStyle", "search_path"].contains(&name) {
        let expected = session.model.shown(name, session.world.default(name)).to_owned();
        return same(session, name, Session::first(&rows).unwrap_or_default(), &expected);
    }
    Ok(())
}

/// Holds one setting against the model.
fn same(session: &mut Session<'_>, name: &str, seen: &str, expected: &str) -> Step {
    if seen == expected {
        return Ok(());
    }
    let details = format!("{name} is {seen:?} instead of {expected:?}");
    let began = session.model.startup.settings.get(name).cloned();
    let began = began.unwrap_or_else(|| session.world.default(name).to_owned());
    if seen == began || session.model.past.get(name).is_some_and(|past| past.contains(seen)) {
        return Err(session.lost(name, &format!("{name} lost"), &details));
    }
    Err(session.violated(Kind::Leak, &format!("another's {name}"), &details))
}

fn by_name(session: &mut Session<'_>) -> Step {
    let rows = session.ask("SELECT current_setting('app.tag', true), current_setting('search_path'), current_user")?;
    let tag = rows[0][0].clone().unwrap_or_default();
    let expected = session.model.custom("app.tag").unwrap_or_default();
    same(session, "app.tag", &tag, &expected)?;
    let path = session.model.shown("search_path", session.world.default("search_path")).to_owned();
    same(session, "search_path", rows[0][1].as_deref().unwrap_or_default(), &path)
}

/// The hour of a time zone as these sessions set it, `<NAME>-HH:MM`: seconds east of Greenwich.
pub fn offset(zone: &str) -> i64 {
    let Some((_, time)) = zone.split_once(">-") else { return 0 };
    time.split(':').zip([3600, 60]).map(|(part, unit)| part.parse::<i64>().unwrap() * unit).sum()
}

/// Noon of the first of January 2020 in a zone.
pub fn noon(zone: &str) -> i64 {
    1_577_880_000 - offset(zone)
}

fn literal_time(session: &mut Session<'_>) -> Step {
    let rows = session.ask("SELECT extract(epoch FROM '2020-01-01 12:00'::timestamptz)::bigint")?;
    let zone = session.model.shown("TimeZone", session.world.default("TimeZone")).to_owned();
    let expected = noon(&zone).to_string();
    let seen = Session::first(&rows).unwrap_or_default().to_owned();
    if seen == expected {
        return Ok(());
    }
    let details = format!("noon is {seen} instead of {expected} ({zone})");
    if session.model.zones.iter().any(|zone| noon(zone).to_string() == seen) {
        return Err(session.lost("TimeZone", "TimeZone lost", &details));
    }
    Err(session.violated(Kind::Leak, "another's time zone in a literal", &details))
}

/// A function's plan keeps the zone under which this session first ran it, or any since.
fn cached_time(session: &mut Session<'_>) -> Step {
    let rows = session.ask("SELECT public.noon()")?;
    let seen: i64 = Session::first(&rows).and_then(|text| text.parse().ok()).unwrap_or_default();
    if session.model.zones.iter().any(|zone| noon(zone) == seen) {
        return Ok(());
    }
    let details = format!("noon() is {seen}; this session's zones were {:?}", session.model.zones);
    Err(session.violated(Kind::Leak, "another's time zone in a cached plan", &details))
}

fn cached_date(session: &mut Session<'_>) -> Step {
    let rows = session.ask("SELECT public.second_of_january()")?;
    let seen = Session::first(&rows) == Some("f");
    // Month first (MDY) makes it the first of February.
    let styles = &session.model.styles;
    if styles.iter().any(|style| style.contains("MDY") == seen) {
        return Ok(());
    }
    let details = format!("month first is {seen}; this session's styles were {styles:?}");
    Err(session.violated(Kind::Leak, "another's date style in a cached plan", &details))
}

/// The `place` that a search_path leads to.
pub fn place(path: &str) -> &str {
    ["one", "two", "three"].into_iter().find(|name| path.split(", ").any(|part| part == *name)).unwrap_or("public")
}

fn path(session: &mut Session<'_>) -> Step {
    let rows = session.ask("SELECT name FROM place")?;
    let path = session.model.shown("search_path", session.world.default("search_path")).to_owned();
    let seen = Session::first(&rows).unwrap_or_default().to_owned();
    if seen == place(&path) {
        return Ok(());
    }
    let details = format!("place is {seen} under {path}");
    if seen == "public" {
        return same(session, "search_path", session.world.default("search_path"), &path);
    }
    Err(session.violated(Kind::Leak, "another's search_path", &details))
}

fn write(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let rows = session.ask(&format!("INSERT INTO public.orders (tag) VALUES ('{value}') RETURNING id, tag"))?;
    let id: i64 = Session::first(&rows).and_then(|id| id.parse().ok()).unwrap_or_default();
    session.must_be(&rows, &[&id.to_string(), &value])?;
    session.model.sequences.insert("invoices", id);
    session.model.last_value = Some(id);
    let rows = session.ask(&format!("SELECT id, tag FROM public.orders WHERE tag = '{value}'"))?;
    session.must_be(&rows, &[&id.to_string(), &value])
}

/// The name that everybody's temporary table has: without one it is the permanent table.
pub fn scratch(session: &mut Session<'_>) -> Step {
    let rows = session.ask("SELECT tag FROM scratch")?;
    // A path that does not lead to public shows only the temporary one; paths here always do.
    let expected = session.model.now.scratch.clone().unwrap_or_else(|| "permanent".into());
    let seen = Session::first(&rows).unwrap_or_default().to_owned();
    if seen == expected {
        return Ok(());
    }
    let details = format!("scratch holds {seen:?} instead of {expected:?}");
    if seen == "permanent" {
        return Err(session.lost("temporary", "temporary table lost", &details));
    }
    Err(session.violated(Kind::Leak, "another's temporary table", &details))
}

/// The next number of a series that somebody began with setseed() gives it away.
pub fn random(session: &mut Session<'_>) -> Step {
    let rows = session.ask("SELECT (random() * 1e15)::bigint")?;
    let seen: i64 = Session::first(&rows).and_then(|text| text.parse().ok()).unwrap_or_default();
    let owner = session.world.drawn.get(&seen).copied();
    let expected = session.model.seed.map(|(series, at)| session.world.series[series].get(at).copied());
    if let Some((_, at)) = &mut session.model.seed {
        *at += 1;
    }
    if expected == Some(Some(seen)) || (expected.is_none_or(|next| next.is_none()) && owner.is_none()) {
        return Ok(());
    }
    let details = format!("random() gave {seen} of client {owner:?}'s series instead of {expected:?}");
    if owner.is_some() {
        return Err(session.violated(Kind::Leak, "another's random series", &details));
    }
    Err(session.lost("seed", "random series lost", &details))
}

/// The last value of a sequence: this session's, or an error that there is none.
pub fn currval(session: &mut Session<'_>) -> Step {
    let name = *session.dice.pick(&["tickets", "invoices", ""]);
    let (sql, expected) = match name {
        "" => ("SELECT lastval()".to_owned(), session.model.last_value),
        name => (format!("SELECT currval('public.{name}')"), session.model.sequences.get(name).copied()),
    };
    match session.attempt(&sql)? {
        Err(error) if error.code == "55000" => {
            if expected.is_some() {
                *session.counts.entry("(currval: 55000)").or_default() += 1;
            }
            Ok(())
        }
        Err(error) => Err(session.unexpected(&error)),
        Ok(rows) => {
            let seen = Session::first(&rows).and_then(|text| text.parse().ok());
            if seen == expected {
                return Ok(());
            }
            let details = format!("{sql}: {seen:?} instead of {expected:?}");
            Err(session.violated(Kind::Leak, "another's sequence value", &details))
        }
    }
}

fn execute_nothing(session: &mut Session<'_>) -> Step {
    if session.model.sql_prepared.contains_key("stmt") {
        return tagged(session);
    }
    session.must_fail("EXECUTE stmt", &["26000"])
}

fn cancel(session: &mut Session<'_>) -> Step {
    let wait = if session.dice.chance(50) { session.dice.below(25) } else { 0 };
    cancelled(session, 20, wait, 1)
}

/// Requests that arrive about when the statement ends, and its server goes to another client.
fn cancel_late(session: &mut Session<'_>) -> Step {
    let (sleep, wait) = (session.dice.below(4), session.dice.below(4));
    cancelled(session, sleep, wait, 4)
}

/// A statement of so many milliseconds, and so many requests to cancel it after so many more.
fn cancelled(session: &mut Session<'_>, sleep: usize, wait: usize, requests: usize) -> Step {
    let value = session.value();
    session.note(&format!("pg_sleep for {sleep} ms and {requests} cancel requests after {wait} ms"));
    session.send(&fe::query(&format!("SELECT '{value}', pg_sleep({sleep} / 1000.0)")));
    let canceller = session.client.canceller();
    std::thread::sleep(std::time::Duration::from_millis(wait as u64));
    std::thread::scope(|scope| {
        for _ in 1..requests {
            scope.spawn(|| canceller.send());
        }
        canceller.send();
    });
    let reply = session.read(b"Z", 1)?;
    match reply.errors.first() {
        None => session.must_be(&reply.rows, &[&value, ""])?,
        Some(error) if error.code == "57014" || error.code == "53300" => {}
        Some(error) => return Err(session.unexpected(&error.clone())),
    }
    // A request may come late and hit this session's next statement: each is allowed one.
    let mut tries = 0;
    while let Err(error) = session.attempt("SELECT 'after the cancel'")? {
        tries += 1;
        if error.code != "57014" || tries > requests {
            return Err(session.unexpected(&error));
        }
    }
    Ok(())
}

/// Long enough for somebody else's cancel request to hit it.
fn slow(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let rows = session.ask(&format!("SELECT '{value}', pg_sleep(0.01)"))?;
    session.must_be(&rows, &[&value, ""])
}

fn long(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let rows = session.ask(&format!("SELECT '{value}', repeat('x', 500) FROM generate_series(1, 400)"))?;
    if rows.len() == 400 && rows.iter().all(|row| row[0].as_deref() == Some(&value)) {
        return Ok(());
    }
    Err(session.violated(Kind::Leak, "a wrong long answer", &format!("{} rows", rows.len())))
}
