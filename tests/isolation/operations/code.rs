//! Code whose words show that it may do anything: DO, function calls by the protocol, SQL run from text.

use super::{Group, Operation, inner, outer};
use crate::judge::Kind;
use crate::session::{Session, Step};
use crate::support::fe;

/// All of them.
pub const ALL: &[Operation] = &[
    inner("DO", Group::Settings, run_do),
    outer("DO with a temporary table", Group::Bound, do_table),
    outer("FunctionCall", Group::Settings, function_call),
    inner("query_to_xml", Group::Settings, query_to_xml),
    inner("ts_stat", Group::Settings, ts_stat),
];

fn branded(session: &mut Session<'_>, value: &str) {
    session.model.set_custom("app.tag", value);
    session.model.hidden.remove("app.tag");
}

fn run_do(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let sql = match session.dice.below(3) {
        0 => format!("DO $$BEGIN SET app.tag = '{value}'; END$$"),
        1 => format!("DO $$BEGIN PERFORM set_config('app.tag', '{value}', false); END$$"),
        _ => format!("DO $$BEGIN EXECUTE 'SET ' || 'app.' || 'tag = ''{value}'''; END$$"),
    };
    session.ask(&sql)?;
    branded(session, &value);
    Ok(())
}

fn do_table(session: &mut Session<'_>) -> Step {
    if session.model.now.scratch.is_some() || session.model.is_other_role() {
        return super::queries::scratch(session);
    }
    let value = session.value();
    session.ask(&format!(
        "DO $$BEGIN EXECUTE 'CREATE TE' || 'MP TABLE scratch AS SELECT ''{value}''::text AS tag'; \
         GRANT ALL ON scratch TO PUBLIC; END$$"
    ))?;
    session.model.now.scratch = Some(value);
    session.model.hidden.remove("temporary");
    Ok(())
}

/// A message without text and without tag.
fn function_call(session: &mut Session<'_>) -> Step {
    let value = session.value();
    session.note(&format!("FunctionCall of set_config with {value}"));
    let oid = session.world.functions["set_config"];
    let call = fe::message(b'F', &call(oid, &[b"app.tag", value.as_bytes(), &[0]]));
    let reply = session.exchange(&call, 1)?;
    branded(session, &value);
    let rows = session.all_well(reply)?;
    if Session::first(&rows).is_some_and(|seen| seen == value) {
        return Ok(());
    }
    Err(session.violated(Kind::Leak, "a wrong answer to a FunctionCall", &format!("{rows:?} instead of {value}")))
}

/// A FunctionCall's body, its arguments in binary, its result in text.
pub fn call(oid: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 1, 0, 1]);
    body.extend_from_slice(&u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend_from_slice(&u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument);
    }
    body.extend_from_slice(&[0, 0]);
    body
}

fn query_to_xml(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let query = format!("'SELECT set' || '_config(''app.tag'', ''{value}'', false)'");
    session.ask(&format!("SELECT length(query_to_xml({query}, true, false, '')::text) > 0"))?;
    branded(session, &value);
    Ok(())
}

fn ts_stat(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let query = format!("'SELECT to_tsvector(''simple'', set' || '_config(''app.tag'', ''{value}'', false))'");
    session.ask(&format!("SELECT count(*) FROM ts_stat({query})"))?;
    branded(session, &value);
    Ok(())
}
