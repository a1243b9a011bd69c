//! Transactions of several operations, and settings that end with them.

use super::{Group, Operation, choose_inner, inner, outer};
use crate::judge::Kind;
use crate::probe;
use crate::session::{Halt, Session, Step};
use crate::support::fe;

/// All of them.
pub const ALL: &[Operation] = &[
    outer("transaction", Group::Plain, transaction),
    outer("savepoint", Group::Settings, savepoint),
    outer("tenant", Group::Plain, tenant),
    outer("tenant in one query", Group::Plain, tenant_at_once),
    outer("local setting", Group::Plain, local),
    outer("local zone, cached plan", Group::Plain, local_zone),
    inner("local custom setting", Group::Plain, local_custom),
];

fn transaction(session: &mut Session<'_>) -> Step {
    let operation = session.operation;
    session.ask("BEGIN")?;
    session.model.begin();
    for _ in 0..1 + session.dice.below(4) {
        let Some(inner) = choose_inner(session) else { break };
        session.operation = inner.name;
        *session.counts.entry(inner.name).or_default() += 1;
        (inner.run)(session)?;
        if session.dice.chance(30) {
            probe::probe(session)?;
        }
    }
    session.operation = operation;
    match session.dice.below(10) {
        0..5 => {
            session.ask("COMMIT")?;
            session.model.commit();
        }
        5..8 => {
            session.ask("ROLLBACK")?;
            session.model.rollback();
        }
        8 => {
            // Failed, then ended by a COMMIT that rolls back.
            session.note("a failed transaction");
            session.must_fail("SELECT 1 / 0", &["22012"])?;
            session.must_fail("SELECT 1", &["25P02"])?;
            session.ask("COMMIT")?;
            session.model.rollback();
        }
        _ => return Err(Halt::Leave(super::vanish::leave(session).into())),
    }
    if session.dice.chance(40) { probe::probe(session) } else { Ok(()) }
}

/// What was set after a savepoint is undone with it.
fn savepoint(session: &mut Session<'_>) -> Step {
    let (kept, undone) = ((30_000 + session.number * 100).to_string(), (30_001 + session.number * 100).to_string());
    session.ask("BEGIN")?;
    session.model.begin();
    session.ask(&format!("SET work_mem = {kept}"))?;
    session.model.set("work_mem", &kept);
    session.model.hidden.remove("work_mem");
    session.ask("SAVEPOINT here")?;
    session.ask(&format!("SET work_mem = {undone}"))?;
    probe_with(session, &undone)?;
    if session.dice.chance(50) {
        session.must_fail("SELECT 1 / 0", &["22012"])?;
    }
    session.ask("ROLLBACK TO here")?;
    probe_with(session, &kept)?;
    session.ask("COMMIT")?;
    session.model.commit();
    probe_with(session, &kept)
}

fn probe_with(session: &mut Session<'_>, work_mem: &str) -> Step {
    session.model.set("work_mem", work_mem);
    probe::probe(session)
}

/// Row-level security as it is done in multi-tenant programs.
fn tenant(session: &mut Session<'_>) -> Step {
    let tenant = format!("tenant{}", session.number);
    session.ask("BEGIN")?;
    session.model.begin();
    session.ask(&format!("SET LOCAL app.tenant_id = '{tenant}'"))?;
    session.model.set_custom_local("app.tenant_id", &tenant);
    documents(session, Some(&tenant))?;
    let commit = session.dice.chance(70);
    session.ask(if commit { "COMMIT" } else { "ROLLBACK" })?;
    if commit {
        session.model.commit()
    } else {
        session.model.rollback()
    }
    // Outside: nobody's documents.
    if session.dice.chance(30) {
        documents(session, session.model.custom("app.tenant_id").as_deref().map(str::to_owned).as_deref())
    } else {
        Ok(())
    }
}

fn documents(session: &mut Session<'_>, tenant: Option<&str>) -> Step {
    if session.world.scenario.superuser {
        // Whom no policy holds.
        return Ok(());
    }
    let rows = session.ask("SELECT body FROM public.documents ORDER BY body")?;
    let expected: Vec<String> = match tenant {
        Some(tenant) if tenant.starts_with("tenant") => vec![format!("{tenant}-1"), format!("{tenant}-2")],
        _ => vec![],
    };
    let got: Vec<_> = rows.iter().map(|row| row[0].clone().unwrap_or_default()).collect();
    if got == expected {
        return Ok(());
    }
    let details = format!("{got:?} instead of {expected:?}");
    if got.is_empty() {
        return Err(session.violated(Kind::Carry, "the tenant is lost", &details));
    }
    Err(session.violated(Kind::Leak, "another tenant's documents", &details))
}

/// The same as drivers pipeline it: one write.
fn tenant_at_once(session: &mut Session<'_>) -> Step {
    if session.world.scenario.superuser {
        return Ok(());
    }
    let tenant = format!("tenant{}", session.number);
    session.note("BEGIN; SET LOCAL; SELECT; COMMIT in one write");
    let select = "SELECT body FROM public.documents ORDER BY body";
    let set = format!("SET LOCAL app.tenant_id = '{tenant}'");
    let (bytes, readies) = match session.dice.below(3) {
        0 => (fe::query(&format!("BEGIN; {set}; {select}; COMMIT")), 1),
        1 => (fe::all(&[fe::query("BEGIN"), fe::query(&set), fe::query(select), fe::query("COMMIT")]), 4),
        _ => {
            let sqls = ["BEGIN", &set, select, "COMMIT"];
            let parts = sqls.map(|sql| fe::all(&[fe::parse("", sql, &[]), fe::bind("", "", &[]), fe::execute("")]));
            ([parts.concat(), fe::sync()].concat(), 1)
        }
    };
    let reply = session.exchange(&bytes, readies)?;
    session.model.past.entry("app.tenant_id".into()).or_default();
    session.model.now.custom.entry("app.tenant_id").or_insert_with(|| Some(String::new()));
    let rows = session.all_well(reply)?;
    let got: Vec<_> = rows.iter().map(|row| row[0].clone().unwrap_or_default()).collect();
    if got == [format!("{tenant}-1"), format!("{tenant}-2")] {
        return Ok(());
    }
    Err(session.violated(Kind::Leak, "another tenant's documents", &format!("{got:?} for {tenant}")))
}

fn local(session: &mut Session<'_>) -> Step {
    let value = (2000 + session.number).to_string();
    session.ask("BEGIN")?;
    session.model.begin();
    session.ask(&format!("SET LOCAL work_mem = {value}"))?;
    session.model.set_local("work_mem", &value);
    probe::probe(session)?;
    session.ask("COMMIT")?;
    session.model.commit();
    Ok(())
}

/// A time zone for one transaction, under which a function's plan is made.
fn local_zone(session: &mut Session<'_>) -> Step {
    let zone = super::settings::zone(session);
    session.ask("BEGIN")?;
    session.model.begin();
    session.ask(&format!("SET LOCAL TimeZone = '{zone}'"))?;
    session.model.set_local("TimeZone", &zone);
    let rows = session.ask("SELECT public.noon()")?;
    let seen = Session::first(&rows).unwrap_or_default().to_owned();
    if !session.model.zones.iter().any(|zone| super::queries::noon(zone).to_string() == seen) {
        return Err(session.violated(Kind::Leak, "another's time zone in a cached plan", &seen));
    }
    session.ask("COMMIT")?;
    session.model.commit();
    Ok(())
}

fn local_custom(session: &mut Session<'_>) -> Step {
    if !session.model.in_transaction() {
        return super::queries::tagged(session);
    }
    let (name, value) = (*session.dice.pick(&["app.tag", "app.who", "deep.er.name"]), session.value());
    session.ask(&format!("SET LOCAL {name} = '{value}'"))?;
    session.model.set_custom_local(name, &value);
    Ok(())
}
