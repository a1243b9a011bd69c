//! State set by functions, without a word in the text of the statement: by operators, casts, domains, constraints,
//! defaults, triggers through partitions and cascades, rules, views, policies, event triggers.

use super::code::call;
use super::{Group, Operation, inner, outer};
use crate::bench::{self, SEEDS, seed_argument};
use crate::probe;
use crate::session::{Session, Step};
use crate::support::fe;

macro_rules! ways {
    ($($name:literal $way:ident $sql:literal),* $(,)?) => {
        $(fn $way(session: &mut Session<'_>) -> Step { branded_by(session, $sql) })*
        const WAYS: &[Operation] = &[$(inner($name, Group::Hidden, $way)),*];
    };
}

// `{}` is what `app.tag` becomes.
ways! {
    "by plpgsql" plpgsql "SELECT public.brand('{}')",
    "by SQL function" sql_function "SELECT public.brand_sql('{}')",
    "by BEGIN ATOMIC" atomic "SELECT public.brand_atomic('{}')",
    "by SECURITY DEFINER" definer "SELECT public.brand_definer('{}')",
    "by dynamic SQL" dynamic "SELECT public.brand_dynamic('{}')",
    "by FROM" from "SELECT b FROM generate_series(1, 1), public.brand('{}') b",
    "by WHERE" condition "SELECT 1 WHERE public.brand('{}') IS NOT NULL",
    "by operator" operator "SELECT 'x'::text OPERATOR(public.<=#) '{}'::text",
    "by cast" cast "SELECT ROW('{}')::public.label::text",
    "by domain" domain "SELECT '{}'::public.branded",
    "by aggregate" aggregate "SELECT public.brand_all(v) FROM (VALUES ('{}'::text)) t (v)",
    "by CHECK" check "INSERT INTO public.checked VALUES ('{}')",
    "by index expression" index "INSERT INTO public.indexed VALUES ('{}')",
    "by generated column" generated "INSERT INTO public.generated VALUES ('{}')",
    "by trigger" trigger "INSERT INTO public.triggered VALUES ('{}')",
    "by partition's trigger" partition "INSERT INTO public.parted VALUES ('{}')",
    "by COPY-like insert" insert_select "INSERT INTO public.triggered SELECT '{}'",
    "by prepared text" merged "WITH w AS (INSERT INTO public.triggered VALUES ('{}') RETURNING tag) SELECT tag FROM w",
}

const OTHERS: &[Operation] = &[
    inner("by default", Group::Hidden, default),
    inner("by policy", Group::Hidden, policy),
    outer("by cascade", Group::Hidden, cascade),
    outer("by rule", Group::Hidden, rule),
    outer("by view", Group::Hidden, view),
    outer("by event trigger", Group::Hidden, event),
    outer("by CALL", Group::Hidden, procedure),
    outer("by FunctionCall", Group::Hidden, function_call),
    outer("by COPY", Group::Hidden, copied),
    outer("by parameter", Group::Hidden, parameter),
    inner("hidden work_mem", Group::Hidden, tune),
    inner("hidden zone", Group::Hidden, dwell),
    inner("hidden role", Group::Hidden, become_role),
    outer("hidden temporary table", Group::Hidden, stash),
    outer("hidden lock", Group::Hidden, seize),
    outer("hidden LISTEN", Group::Hidden, hear),
    outer("hidden PREPARE", Group::Hidden, keep),
    outer("hidden cursor", Group::Hidden, hold),
    outer("hidden seed", Group::Hidden, sow),
];

/// All of them.
pub static ALL: std::sync::LazyLock<Vec<Operation>> = std::sync::LazyLock::new(|| [WAYS, OTHERS].concat());

fn branded(session: &mut Session<'_>, value: &str) {
    session.model.set_custom("app.tag", value);
    session.model.hidden.insert("app.tag".into());
}

fn branded_by(session: &mut Session<'_>, sql: &str) -> Step {
    let value = session.value();
    session.ask(&sql.replace("{}", &value))?;
    branded(session, &value);
    Ok(())
}

/// The default sees nothing of its row: it takes the session's own name.
fn default(session: &mut Session<'_>) -> Step {
    let name = session.model.shown("application_name", "").to_owned();
    if name.is_empty() {
        return branded_by(session, "SELECT public.brand('{}')");
    }
    session.ask("INSERT INTO public.defaulted (n) VALUES (1)")?;
    branded(session, &name);
    Ok(())
}

fn policy(session: &mut Session<'_>) -> Step {
    if session.world.scenario.superuser {
        // Whom no policy holds.
        return trigger(session);
    }
    branded_by(session, "INSERT INTO public.guarded VALUES ('{}')")
}

fn cascade(session: &mut Session<'_>) -> Step {
    let value = session.value();
    session.ask(&format!("INSERT INTO public.parents VALUES ('{value}')"))?;
    session.ask(&format!("INSERT INTO public.children VALUES ('{value}')"))?;
    session.ask(&format!("DELETE FROM public.parents WHERE tag = '{value}'"))?;
    branded(session, &value);
    Ok(())
}

fn rule(session: &mut Session<'_>) -> Step {
    let value = format!("rule {}", session.value());
    session.ask(&format!("INSERT INTO public.parents VALUES ('{value}')"))?;
    branded(session, &value);
    Ok(())
}

fn view(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let rows = session.ask(&format!("INSERT INTO public.orders (tag) VALUES ('{value}') RETURNING id"))?;
    let id = Session::first(&rows).and_then(|text| text.parse().ok()).unwrap_or_default();
    session.model.sequences.insert("invoices", id);
    session.model.last_value = Some(id);
    session.ask(&format!("SELECT * FROM public.seen WHERE tag = '{value}'"))?;
    branded(session, &value);
    Ok(())
}

fn event(session: &mut Session<'_>) -> Step {
    // Catalog rows are dear: not often.
    if session.dice.chance(70) || session.model.is_other_role() {
        return plpgsql(session);
    }
    session.serial += 1;
    let value = format!("{}_{}", session.tag, session.serial);
    session.ask(&format!("CREATE TABLE public.event_{value} (a int)"))?;
    branded(session, &value);
    session.ask(&format!("DROP TABLE public.event_{value}")).map(drop)
}

fn procedure(session: &mut Session<'_>) -> Step {
    branded_by(session, "CALL public.brand_called('{}')")
}

fn function_call(session: &mut Session<'_>) -> Step {
    let value = session.value();
    session.note(&format!("FunctionCall of brand with {value}"));
    let call = fe::message(b'F', &call(session.world.functions["brand"], &[value.as_bytes()]));
    let reply = session.exchange(&call, 1)?;
    session.all_well(reply)?;
    branded(session, &value);
    Ok(())
}

fn copied(session: &mut Session<'_>) -> Step {
    let value = session.value();
    session.note(&format!("COPY of {value} into a table with a trigger"));
    session.send(&fe::query("COPY public.triggered FROM STDIN"));
    let reply = session.read(b"GZ", 1)?;
    if let Some(error) = reply.errors.first() {
        return if error.code == "53300" { Ok(()) } else { Err(session.unexpected(&error.clone())) };
    }
    session.send(&fe::all(&[fe::copy_data(format!("{value}\n").as_bytes()), fe::copy_done()]));
    let reply = session.read(b"Z", 1)?;
    session.all_well(reply)?;
    branded(session, &value);
    Ok(())
}

fn parameter(session: &mut Session<'_>) -> Step {
    let value = session.value();
    session.extended("SELECT public.brand($1)", &[&value])?;
    branded(session, &value);
    Ok(())
}

fn tune(session: &mut Session<'_>) -> Step {
    let value = (20_000 + session.number * 100 + session.dice.below(100)).to_string();
    session.ask(&format!("SELECT public.tune({value})"))?;
    session.model.set("work_mem", &value);
    session.model.hidden.insert("work_mem".into());
    Ok(())
}

fn dwell(session: &mut Session<'_>) -> Step {
    let zone = super::settings::zone(session);
    session.ask(&format!("SELECT public.dwell('{zone}')"))?;
    session.model.set("TimeZone", &zone);
    session.model.hidden.insert("TimeZone".into());
    Ok(())
}

fn become_role(session: &mut Session<'_>) -> Step {
    let role = bench::role(session.number);
    session.ask(&format!("SELECT public.become('{role}')"))?;
    session.model.now.role = Some(role);
    session.model.hidden.insert("role".into());
    Ok(())
}

fn stash(session: &mut Session<'_>) -> Step {
    if session.model.now.scratch.is_some() || session.model.is_other_role() {
        return super::queries::scratch(session);
    }
    let value = session.value();
    let function = *session.dice.pick(&["stash", "stash_path"]);
    session.ask(&format!("SELECT public.{function}('{value}')"))?;
    session.model.now.scratch = Some(value);
    session.model.hidden.insert("temporary".into());
    super::queries::scratch(session)
}

fn seize(session: &mut Session<'_>) -> Step {
    let key = (u32::try_from(session.number).unwrap() + 1, 7);
    if session.model.locks.contains(&key) {
        return super::queries::tagged(session);
    }
    session.ask(&format!("SELECT public.seize({}, {})", key.0, key.1))?;
    session.model.locks.insert(key);
    session.model.hidden.insert("locks".into());
    Ok(())
}

fn hear(session: &mut Session<'_>) -> Step {
    let channel = format!("ch_{}", session.tag);
    session.ask(&format!("SELECT public.hear('{channel}')"))?;
    session.model.now.channels.insert(channel);
    session.model.hidden.insert("channels".into());
    Ok(())
}

fn keep(session: &mut Session<'_>) -> Step {
    if session.model.sql_prepared.contains_key("stmt") {
        return super::queries::tagged(session);
    }
    let value = session.value();
    session.ask(&format!("SELECT public.keep('stmt', '{value}')"))?;
    session.model.sql_prepared.insert("stmt".into(), value);
    session.model.hidden.insert("prepared".into());
    Ok(())
}

fn hold(session: &mut Session<'_>) -> Step {
    if session.model.now.cursors.contains_key("held") {
        return super::queries::tagged(session);
    }
    let value = session.value();
    session.ask(&format!("SELECT public.hold('held', '{value}')"))?;
    session.model.now.cursors.insert("held".into(), value);
    session.model.hidden.insert("cursors".into());
    probe::probe(session)
}

fn sow(session: &mut Session<'_>) -> Step {
    let series = session.number * SEEDS + session.dice.below(SEEDS);
    session.ask(&format!("SELECT public.sow({})", seed_argument(series)))?;
    session.model.seed = Some((series, 0));
    session.model.hidden.insert("seed".into());
    Ok(())
}
