//! Leaving: politely, or gone in the middle of anything.

use crate::session::Session;
use crate::support::fe;
use crate::support::wire::Socket;
use std::time::Duration;

const WAYS: [&str; 11] = [
    "Terminate",
    "closed",
    "reset",
    "closed in a message",
    "closed with an answer owed",
    "reset with an answer owed",
    "closed in a transaction",
    "closed in a COPY",
    "closed in a pipeline",
    "reset with much unread",
    "closed after a batch without Sync",
];

/// Closes the connection in one of the ways, and says which.
pub fn leave(session: &mut Session<'_>) -> &'static str {
    let way = session.dice.below(WAYS.len());
    session.note(WAYS[way]);
    let tag = session.tag.clone();
    let set = format!("SET app.tag = '{tag}'");
    let bytes = match way {
        0 => fe::terminate(),
        3 => {
            let whole = fe::query(&set);
            whole[..1 + session.dice.below(whole.len() - 1)].to_vec()
        }
        4 | 5 => fe::query(&format!("SELECT '{tag}', pg_sleep(0.005)")),
        6 => [fe::query("BEGIN"), fe::query(&set), fe::query("CREATE TEMP TABLE IF NOT EXISTS left_behind (a int)")]
            .concat(),
        7 => [fe::query("COPY public.copied FROM STDIN"), fe::copy_data(format!("{tag}\t1\n").as_bytes())].concat(),
        8 => {
            let one = fe::extended(&format!("SELECT '{tag}', $1::text"), &[&tag]);
            [one.repeat(20), fe::query(&set)].concat()
        }
        9 => fe::query(&format!("SELECT '{tag}', repeat('x', 1000) FROM generate_series(1, 2000)")),
        10 => fe::all(&[
            fe::parse("", &format!("SELECT set_config('app.tag', '{tag}', false)"), &[]),
            fe::bind("", "", &[]),
            fe::execute(""),
        ]),
        _ => vec![],
    };
    if !bytes.is_empty() {
        session.send(&bytes);
        if session.dice.chance(50) {
            std::thread::sleep(Duration::from_millis(session.dice.below(8) as u64));
        }
    }
    if matches!(way, 2 | 5 | 9)
        && let Socket::Tcp(stream) = &session.client.socket
    {
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    // The socket closes with the session.
    WAYS[way]
}
