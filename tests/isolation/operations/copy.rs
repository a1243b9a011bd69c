//! COPY both ways, whole and broken off.

use super::{Group, Operation, outer};
use crate::judge::Kind;
use crate::session::{Session, Step};
use crate::support::fe;

/// All of them.
pub const ALL: &[Operation] =
    &[outer("copy in and out", Group::Plain, both), outer("copy that fails", Group::Plain, failing)];

fn both(session: &mut Session<'_>) -> Step {
    let (value, count) = (session.value(), 1 + session.dice.below(50));
    session.note(&format!("COPY of {count} rows of {value}"));
    session.send(&fe::query("COPY public.copied FROM STDIN"));
    let reply = session.read(b"GZ", 1)?;
    if let Some(error) = reply.errors.first() {
        return if error.code == "53300" { Ok(()) } else { Err(session.unexpected(&error.clone())) };
    }
    let lines: Vec<_> = (0..count).map(|n| format!("{value}\t{n}\n")).collect();
    let data: Vec<_> = lines.iter().map(|line| fe::copy_data(line.as_bytes())).collect();
    session.send(&fe::all(&data));
    session.send(&fe::copy_done());
    let reply = session.read(b"Z", 1)?;
    let tags = reply.tags.clone();
    session.all_well(reply)?;
    if tags != [format!("COPY {count}")] {
        return Err(session.violated(Kind::Leak, "a wrong COPY", &format!("{tags:?} instead of {count}")));
    }
    let sql = format!("COPY (SELECT tag, n FROM public.copied WHERE tag = '{value}' ORDER BY n) TO STDOUT");
    session.note(&sql);
    let extended = session.dice.chance(50);
    let bytes = if extended { fe::extended(&sql, &[]) } else { fe::query(&sql) };
    let reply = session.exchange(&bytes, 1)?;
    let data = reply.data.clone();
    session.all_well(reply)?;
    if data != lines {
        return Err(session.violated(Kind::Leak, "wrong COPY data", &format!("{data:?} instead of {lines:?}")));
    }
    session.ask(&format!("DELETE FROM public.copied WHERE tag = '{value}'")).map(drop)
}

fn failing(session: &mut Session<'_>) -> Step {
    let value = session.value();
    let how = session.dice.below(2);
    session.note(&format!("a COPY that fails, {how}"));
    session.send(&fe::query("COPY public.copied FROM STDIN"));
    let reply = session.read(b"GZ", 1)?;
    if let Some(error) = reply.errors.first() {
        return if error.code == "53300" { Ok(()) } else { Err(session.unexpected(&error.clone())) };
    }
    // Given up by the client, or refused by the server while more is sent.
    let bytes = match how {
        0 => [fe::copy_data(format!("{value}\t1\n").as_bytes()), fe::copy_fail("changed my mind")].concat(),
        _ => [fe::copy_data(format!("{value}\tnothing\n").as_bytes()), fe::copy_data(b"more\t1\n"), fe::copy_done()]
            .concat(),
    };
    session.send(&bytes);
    let reply = session.read(b"Z", 1)?;
    match reply.errors.first() {
        Some(error) if error.code == ["57014", "22P02"][how] => Ok(()),
        Some(error) => Err(session.unexpected(&error.clone())),
        None => Err(session.violated(Kind::Leak, "a COPY that cannot work", &format!("{:?}", reply.tags))),
    }
}
