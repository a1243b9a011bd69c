//! A client's bytes and a server's, through ingress and egress, without sockets.
#![allow(clippy::unwrap_used)]

use super::buffer::{Buffer, LARGE, Outgoing, SMALL};
use super::egress::{Egress, Sides};
use super::ingress::{Ingress, Rules, Server, Stop, Taken, Turn};
use crate::api::resolve::Mode;
use crate::pg::error::SqlState;
use crate::pg::exchange::Exchange;
use crate::pg::frame;
use crate::pg::message;
use crate::pg::session::mine::Care;
use crate::pg::session::prepared::{Cache, Names, Registry};
use crate::pg::session::scan::Pin;
use crate::pg::session::server::{Parameters, Session};
use crate::sidecar::catalog::Catalog;
use crate::sidecar::stats::Worker;

/// One server, and the clients that use it in turn.
struct Bench {
    mode: Mode,
    shares: bool,
    max: usize,
    registry: Registry,
    stats: Worker,
    exchange: Exchange,
    cache: Cache,
    egress: Egress,
    session: Session,
    parameters: Parameters,
    name: Option<&'static str>,
    care: Care,
    client: i32,
    catalog: Catalog,
}

#[derive(Default)]
struct Client {
    ingress: Ingress,
    names: Names,
    buffer: Buffer,
    entered: bool,
}

impl Bench {
    fn new() -> Self {
        Self {
            mode: Mode::Transaction,
            shares: true,
            max: LARGE,
            registry: Registry::default(),
            stats: Worker::default(),
            exchange: Exchange::default(),
            cache: Cache::new(2),
            egress: Egress::default(),
            session: Session::default(),
            parameters: Parameters::default(),
            name: None,
            care: Care::Preserve,
            client: 7,
            catalog: Catalog::default(),
        }
    }

    /// What the server gets of what the client sends, and why it stopped there.
    fn send(&mut self, client: &mut Client, bytes: &[u8]) -> (Vec<u8>, Stop) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = client.buffer.space(self.max.max(SMALL));
            let n = space.len().min(rest.len());
            space[..n].copy_from_slice(&rest[..n]);
            client.buffer.filled(n);
            rest = &rest[n..];
        }
        let mut out = Outgoing::default();
        let server =
            Server { exchange: &mut self.exchange, cache: &mut self.cache, session: &mut self.session, out: &mut out };
        let rules = Rules {
            mode: self.mode,
            shares_statements: self.shares,
            max_buffered: self.max,
            application: self.name,
            prepares: false,
            catalog: &self.catalog,
            client: self.client,
            care: self.care,
            statements: &self.registry,
            stats: &self.stats,
        };
        let mut turn = Turn {
            input: Taken::new(&client.buffer, 0),
            names: &mut client.names,
            server,
            rules: &rules,
            first: false,
            changeable: false,
        };
        if !std::mem::replace(&mut client.entered, true) {
            assert!(client.ingress.enter(&mut turn).unwrap());
        } else {
            client.ingress.rename(&mut turn);
        }
        let stop = client.ingress.process(&mut turn);
        let taken = turn.input.taken();
        let sent = out.take(&client.buffer);
        client.buffer.consume(taken);
        (sent, stop)
    }

    /// What the client gets of what the server answers.
    fn answer(&mut self, client: &mut Client, bytes: &[u8]) -> Vec<u8> {
        let mut got = Vec::new();
        let mut buffer = Buffer::default();
        // In one-byte pieces: wherever a message is cut, the result is the same.
        for byte in bytes {
            buffer.space(LARGE)[0] = *byte;
            buffer.filled(1);
            let mut out = Outgoing::default();
            let mut sides = Sides {
                exchange: &mut self.exchange,
                cache: &mut self.cache,
                names: &mut client.names,
                statements: &self.registry,
                ingress: &mut client.ingress,
                out: &mut out,
                session: &mut self.session,
                parameters: &mut self.parameters,
                single: self.mode == Mode::Statement,
                stats: &self.stats,
            };
            self.egress.process(&buffer, &mut sides).unwrap();
            got.extend(out.take(&buffer));
            self.egress.wrote(&mut buffer);
        }
        got
    }
}

fn tags(mut bytes: &[u8]) -> String {
    let mut tags = String::new();
    while let Some(whole) = frame::whole(bytes).unwrap() {
        tags.push(char::from(whole.tag));
        bytes = &bytes[whole.total()..];
    }
    assert!(bytes.is_empty(), "a message cut in two");
    tags
}

fn msg(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    message::frame(&mut out, tag, |out| out.extend_from_slice(body));
    out
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    msg(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

fn bind(portal: &str, name: &str, rest: &[u8]) -> Vec<u8> {
    msg(b'B', &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0", rest].concat())
}

fn query(sql: &str) -> Vec<u8> {
    msg(b'Q', format!("{sql}\0").as_bytes())
}

fn sync() -> Vec<u8> {
    msg(b'S', b"")
}

fn execute() -> Vec<u8> {
    msg(b'E', b"\0\0\0\0\0")
}

/// A server's messages by their tags; `Z` idle.
fn server(tags: &str) -> Vec<u8> {
    tags.bytes().flat_map(|tag| msg(tag, if tag == b'Z' { b"I" } else { b"" })).collect()
}

/// The name in a Bind or Parse message, and what follows it.
fn named(message: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let body = &message[5..];
    let skip = if message[0] == b'B' { body.iter().position(|b| *b == 0).unwrap() + 1 } else { 0 };
    let end = skip + body[skip..].iter().position(|b| *b == 0).unwrap();
    (body[skip..end].to_vec(), body[end + 1..].to_vec())
}

#[test]
fn a_simple_query_passes_as_it_is() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    let bytes = query("select 1");
    assert_eq!(bench.send(&mut client, &bytes), (bytes, Stop::More));
    assert_eq!(tags(&bench.answer(&mut client, &server("TDCZ"))), "TDCZ");
    assert!(bench.exchange.is_free());
}

#[test]
fn wherever_the_clients_bytes_are_cut_the_server_gets_the_same() {
    let bytes = [parse("s", "select $1"), bind("", "s", b"xyz"), execute(), sync(), query("select 2")].concat();
    let whole = bench_bytes(&bytes, bytes.len());
    for size in 1..bytes.len() {
        assert_eq!(bench_bytes(&bytes, size), whole, "in pieces of {size}");
    }
}

/// What the server gets of bytes that come in pieces, its random names made equal.
fn bench_bytes(bytes: &[u8], size: usize) -> Vec<u8> {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    let mut sent = Vec::new();
    for piece in bytes.chunks(size) {
        let (part, stop) = bench.send(&mut client, piece);
        assert_eq!(stop, Stop::More);
        sent.extend(part);
    }
    let (name, _) = named(&sent);
    let text = String::from_utf8_lossy(&sent).replace(&*String::from_utf8_lossy(&name), "NAME");
    text.into_bytes()
}

#[test]
fn a_statement_is_parsed_once_per_server_and_bound_under_its_own_name() {
    let mut bench = Bench::new();
    let (mut one, mut two) = (Client::default(), Client::default());
    let (sent, _) =
        bench.send(&mut one, &[parse("a", "select 1"), bind("p", "a", b"rest"), execute(), sync()].concat());
    assert_eq!(tags(&sent), "PBES");
    let (name, _) = named(&sent);
    assert!(name.starts_with(b"pk_") && name.len() == 35);
    let bound = &sent[frame::whole(&sent).unwrap().unwrap().total()..];
    assert_eq!(named(bound), (name, [&b"rest"[..], &execute(), &sync()].concat()));
    assert_eq!(tags(&bench.answer(&mut one, &server("12CZ"))), "12CZ");

    // Another client, another name, the same text: nothing is sent, and the answer comes in its turn.
    let (sent, _) = bench.send(&mut two, &[parse("b", "select 1"), bind("", "b", b""), execute(), sync()].concat());
    assert_eq!(tags(&sent), "BES");
    assert_eq!(tags(&bench.answer(&mut two, &server("2CZ"))), "12CZ");
    assert_eq!((bench.stats.prepares.get(), bench.stats.prepare_hits.get()), (1, 1));
}

#[test]
fn a_statement_is_sent_again_to_a_server_that_lacks_it() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &[parse("a", "select 1"), sync()].concat());
    bench.answer(&mut client, &server("1Z"));
    bench.cache = Cache::new(2);
    let (sent, _) = bench.send(&mut client, &[bind("", "a", b""), execute(), sync()].concat());
    assert_eq!(tags(&sent), "PBES");
    assert_eq!(tags(&bench.answer(&mut client, &server("12CZ"))), "2CZ", "its answer is not the client's");
}

#[test]
fn the_cache_is_bounded_and_its_close_is_not_the_clients() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    let statements = ["a", "b", "c"].map(|name| parse(name, &format!("select {name}")));
    let (sent, _) = bench.send(&mut client, &[statements.concat(), sync()].concat());
    assert_eq!(tags(&sent), "PPPCS");
    assert_eq!(tags(&bench.answer(&mut client, &server("1113Z"))), "111Z");
    assert_eq!(bench.cache.len(), 2);
}

#[test]
fn close_of_a_shared_statement_stays_here() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &[parse("a", "select 1"), sync()].concat());
    bench.answer(&mut client, &server("1Z"));
    let (sent, _) = bench.send(&mut client, &[msg(b'C', b"Sa\0"), sync()].concat());
    assert_eq!(tags(&sent), "S");
    assert_eq!(tags(&bench.answer(&mut client, &server("Z"))), "3Z");
    assert!(client.names.get(b"a").is_none());
    // Portals have names of their own (wire-cases 25), and so have statements nobody prepared (24).
    let (sent, _) = bench.send(&mut client, &[msg(b'C', b"Pa\0"), msg(b'C', b"Szzz\0"), sync()].concat());
    assert_eq!(tags(&sent), "CCS");
}

#[test]
fn answers_of_our_own_that_nobody_waits_for_are_bounded() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &[parse("a", "select 1"), sync()].concat());
    bench.answer(&mut client, &server("1Z"));
    let more = [parse("a", "select 1"), msg(b'C', b"Sa\0")].concat();
    let stop = (0..100_000).find_map(|_| match bench.send(&mut client, &more) {
        (_, Stop::More) => None,
        (_, stop) => Some(stop),
    });
    assert!(matches!(stop, Some(Stop::Fatal(SqlState::PROGRAM_LIMIT, _))), "{stop:?}");
}

#[test]
fn a_statement_that_the_server_lost_is_sent_again() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &[parse("a", "select 1"), sync()].concat());
    bench.answer(&mut client, &server("1Z"));
    // Another client found its name in pg_prepared_statements and deallocated it.
    let run = [bind("", "a", b"\0\0\0\0\0\0"), execute(), sync()].concat();
    assert_eq!(tags(&bench.send(&mut client, &run).0), "BES");
    let error = msg(b'E', b"SERROR\0VERROR\0C26000\0Mprepared statement does not exist\0\0");
    bench.answer(&mut client, &[error, server("Z")].concat());
    assert_eq!(tags(&bench.send(&mut client, &run).0), "PBES");
}

#[test]
fn describe_of_a_statement_names_what_the_server_has() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    let (sent, _) =
        bench.send(&mut client, &[parse("a", "select 1"), msg(b'D', b"Sa\0"), msg(b'D', b"P\0"), sync()].concat());
    assert_eq!(tags(&sent), "PDDS");
    let (name, _) = named(&sent);
    let describe = &sent[frame::whole(&sent).unwrap().unwrap().total()..];
    assert_eq!(&describe[5..5 + 1 + name.len()], &[b"S", &name[..]].concat());
    assert_eq!(tags(&bench.answer(&mut client, &server("1tTnZ"))), "1tTnZ");
}

#[test]
fn an_unknown_name_goes_through_and_fails_there() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    let bytes = [bind("", "nobody", b""), execute(), sync()].concat();
    assert_eq!(bench.send(&mut client, &bytes).0, bytes);
}

#[test]
fn nobody_meets_anothers_unnamed_statement() {
    let mut bench = Bench::new();
    let (mut one, mut two) = (Client::default(), Client::default());
    bench.send(&mut one, &[parse("", "select 'one'"), sync()].concat());
    bench.answer(&mut one, &server("1Z"));
    // Two has none: the server must not have one either when it comes to the Bind.
    let (sent, _) = bench.send(&mut two, &[bind("", "", b""), execute(), sync()].concat());
    assert_eq!(tags(&sent), "CBES");
    assert_eq!(tags(&bench.answer(&mut two, &server("3EZ"))), "EZ");
    // One still has its own, which is sent again.
    let (sent, _) = bench.send(&mut one, &[bind("", "", b""), execute(), sync()].concat());
    assert_eq!(tags(&sent), "PBES");
    assert_eq!(named(&sent).0, b"");
    assert_eq!(tags(&bench.answer(&mut one, &server("12CZ"))), "2CZ");
    // A simple Query ends it.
    bench.send(&mut one, &query("select 1"));
    bench.answer(&mut one, &server("CZ"));
    assert!(one.names.get(b"").is_none());
}

#[test]
fn after_an_error_everything_up_to_sync_is_dropped() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &[bind("", "x", b"")].concat());
    assert_eq!(tags(&bench.answer(&mut client, &server("E"))), "E");
    let bytes = [execute(), query("select 1"), parse("a", "b"), msg(b'd', b"x"), sync(), query("select 2")].concat();
    assert_eq!(tags(&bench.send(&mut client, &bytes).0), "SQ");
    assert!(client.names.get(b"a").is_none());
}

#[test]
fn copy_data_passes_while_there_is_a_copy() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &query("copy t from stdin"));
    bench.answer(&mut client, &server("G"));
    let data = [msg(b'd', b"1\n"), msg(b'c', b"")].concat();
    assert_eq!(bench.send(&mut client, &data).0, data);
    bench.answer(&mut client, &server("CZ"));
    assert!(bench.exchange.is_free());
    assert_eq!(bench.send(&mut client, &data).0, b"", "late data goes nowhere");
}

#[test]
fn what_may_bind_is_asked_about() {
    for bytes in [
        query("set a = 1"),
        query("listen x"),
        msg(b'F', b"\0\0\0\0"),
        [parse("", "select pg_advisory_lock(1)"), bind("", "", b""), sync()].concat(),
    ] {
        let (mut bench, mut client) = (Bench::new(), Client::default());
        bench.send(&mut client, &bytes);
        assert!(client.ingress.mine.wants_audit(true));
        assert_eq!(client.ingress.mine.pin(), None, "only an audit binds");
    }
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &query("select setseed(0.5)"));
    assert_eq!(client.ingress.mine.pin(), Some(Pin::Code), "nothing can be asked about it");
}

#[test]
fn only_bind_runs_what_parse_names() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &[parse("s", "set a = 1"), sync()].concat());
    assert!(!client.ingress.mine.wants_audit(true));
    bench.answer(&mut client, &server("1Z"));
    bench.send(&mut client, &[bind("", "s", b""), execute(), sync()].concat());
    assert!(client.ingress.mine.wants_audit(true));
}

#[test]
fn with_reject_what_would_bind_is_not_sent() {
    let (mut bench, mut client) = (Bench { care: Care::Reject, ..Bench::new() }, Client::default());
    let (sent, stop) = bench.send(&mut client, &query("listen x"));
    assert!(stop == Stop::More && !sent.windows(6).any(|text| text == b"listen"), "{sent:?}");
    let refused = |bench: &mut Bench, client: &mut Client, error: &[u8]| {
        let got = bench.answer(client, &[msg(b'E', error), server("Z")].concat());
        assert_eq!(tags(&got), "EZ");
        got.windows(5).any(|code| code == b"0A000")
    };
    assert!(refused(&mut bench, &mut client, b"SERROR\0C42601\0Msyntax error\0\0"));
    let batch = [parse("s", "listen x"), msg(b'D', b"Ss\0"), sync()].concat();
    assert_eq!(tags(&bench.send(&mut client, &batch).0), "PDS");
    assert!(refused(&mut bench, &mut client, b"SERROR\0C42601\0Msyntax error\0\0"));
    assert!(client.names.get(b"s").is_none(), "it was never prepared");
    bench.send(&mut client, &query("listen x"));
    assert!(!refused(&mut bench, &mut client, b"SFATAL\0C57P01\0Mgoodbye\0\0"), "the server's own news are told");
    let (mut bench, mut client) = (Bench { care: Care::Reject, ..Bench::new() }, Client::default());
    assert_eq!(bench.send(&mut client, &query("set a = 1")).0, query("set a = 1"));
}

#[test]
fn a_server_that_may_carry_anything_is_scrubbed_in_the_same_write_and_held_until_confirmed() {
    let (mut bench, mut a) = (Bench { name: Some(""), ..Bench::new() }, Client::default());
    bench.send(&mut a, &query("select f()"));
    bench.answer(&mut a, &[msg(b'C', b"SET\0"), msg(b'Z', b"I"), server("TDCZ")].concat());
    let used = a.ingress.mine.used(Care::Preserve, false);
    bench.session.proof.left(7, &a.ingress.mine.label, used);
    bench.client = 8;
    let mut b = Client::default();
    let batch = [parse("", "select 1"), bind("", "", b""), execute(), sync()].concat();
    let (sent, stop) = bench.send(&mut b, &[batch, query("select 2")].concat());
    // Two statements and a gate; six, the name and a gate; the client's batch.
    let expected = ["CPBECPBEPSDC", &"CPBE".repeat(7), "PSDC", "PBES"].concat();
    assert_eq!((tags(&sent), stop), (expected, Stop::Held), "one batch, and nothing behind its Sync");
    let confirmed = ["312C312C1Zn3", &"312C".repeat(7), "1Zn3"].concat();
    assert_eq!(tags(&bench.answer(&mut b, &[server(&confirmed), server("12CZ")].concat())), "12CZ");
    assert!(!bench.exchange.has_preface());
    assert_eq!(tags(&bench.send(&mut b, b"").0), "Q", "the rest");
}

#[test]
fn without_a_cache_named_statements_bind_and_pass() {
    let (mut bench, mut client) = (Bench { shares: false, ..Bench::new() }, Client::default());
    let bytes = [parse("s", "select 1"), bind("", "s", b""), execute(), sync()].concat();
    assert_eq!(bench.send(&mut client, &bytes).0, bytes);
    assert_eq!(client.ingress.mine.pin(), Some(Pin::Prepared));
}

#[test]
fn session_mode_rewrites_nothing() {
    let (mut bench, mut client) = (Bench { mode: Mode::Session, ..Bench::new() }, Client::default());
    client.ingress = Ingress::new(Mode::Session);
    let batch =
        [parse("s", "set a = 1"), bind("", "s", b""), msg(b'D', b"Ss\0"), msg(b'C', b"Ss\0"), execute(), sync()];
    let bytes = [batch.concat(), query("set b = 2")].concat();
    assert_eq!(bench.send(&mut client, &bytes).0, bytes);
    assert_eq!(client.ingress.mine.pin(), None);
    bench.answer(&mut client, &server("12tT3CZCZ"));
    assert!(bench.exchange.is_free());
}

#[test]
fn a_server_forgets_the_sequence_values_of_others_before_it_is_asked() {
    let lastval = query("select lastval()");
    let (mut bench, mut client) = (Bench::new(), Client::default());
    let (sent, _) = bench.send(&mut client, &lastval);
    assert_eq!(sent, [query("DISCARD SEQUENCES"), lastval.clone()].concat());
    let answer = [msg(b'C', b"DISCARD SEQUENCES\0"), msg(b'Z', b"I"), server("EZ")].concat();
    assert_eq!(tags(&bench.answer(&mut client, &answer)), "EZ", "its own answer alone");
    assert_eq!(bench.send(&mut client, &lastval).0, lastval, "nobody else was there since");
    bench.answer(&mut client, &server("EZ"));

    // Somebody else was: from now on even a plain statement of this client comes after the forgetting.
    bench.session.sequences_of = None;
    client.entered = false;
    bench.name = Some("");
    bench.session.application = Some("".into());
    assert_eq!(tags(&bench.send(&mut client, &query("begin")).0), "QQ");
    bench.answer(&mut client, &[server("CZ"), msg(b'C', b"BEGIN\0"), msg(b'Z', b"T")].concat());
    assert_eq!(bench.send(&mut client, &lastval).0, lastval);

    let (mut bench, mut client) = (Bench::new(), Client::default());
    let (sent, _) = bench.send(&mut client, &[parse("", "select currval('s')"), bind("", "", b""), sync()].concat());
    assert_eq!(tags(&sent), "QPBS", "ahead of the batch: inside, it would make a pipeline of it");
    let (mut bench, mut client) = (Bench::new(), Client::default());
    let batch = [parse("", "select 1"), bind("", "", b""), execute(), parse("", "select currval('s')"), sync()];
    let (sent, _) = bench.send(&mut client, &batch.concat());
    assert_eq!(tags(&sent), "PBEPBECCPS", "inside one that has begun");

    let (mut bench, mut client) = (Bench::new(), Client::default());
    assert_eq!(
        tags(&bench.send(&mut client, &[query("select 1"), lastval.clone()].concat()).0),
        "Q",
        "waits for its turn"
    );
    assert_eq!(bench.answer(&mut client, &server("TDCZ")), server("TDCZ"));
    assert_eq!(tags(&bench.send(&mut client, b"").0), "QQ");

    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &query("begin"));
    bench.answer(&mut client, &[msg(b'C', b"BEGIN\0"), msg(b'Z', b"T")].concat());
    bench.send(&mut client, &query("select 1/0"));
    bench.answer(&mut client, &[server("E"), msg(b'Z', b"E")].concat());
    assert_eq!(bench.send(&mut client, &lastval).0, lastval, "fails by itself");
    bench.answer(&mut client, &[server("E"), msg(b'Z', b"E")].concat());
    let (sent, stop) = bench.send(&mut client, &query("rollback; select lastval()"));
    assert!(sent.is_empty() && matches!(stop, Stop::Fatal(..)), "it would not fail");

    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &query("begin"));
    bench.answer(&mut client, &[msg(b'C', b"BEGIN\0"), msg(b'Z', b"T")].concat());
    // PostgreSQL itself says that nothing was drawn yet (55000), unless it was in this transaction.
    assert_eq!(tags(&bench.send(&mut client, &lastval).0), "QQ");
}

#[test]
fn a_server_takes_the_name_of_its_client_between_transactions() {
    let (mut bench, mut client) = (Bench { name: Some("it's \\ me"), ..Bench::new() }, Client::default());
    let set = query("SET application_name TO E'it''s \\\\ me'");
    assert_eq!(bench.send(&mut client, &query("begin")).0, [set.clone(), query("begin")].concat());
    let own = [msg(b'C', b"SET\0"), msg(b'S', b"application_name\0x\0"), msg(b'Z', b"I")].concat();
    let begun = [msg(b'C', b"BEGIN\0"), msg(b'Z', b"T")].concat();
    assert_eq!(bench.answer(&mut client, &[own.clone(), begun.clone()].concat()), begun);
    assert_eq!(client.ingress.mine.pin(), None);
    bench.name = Some("other");
    assert_eq!(bench.send(&mut client, &query("commit")).0, query("commit"), "not inside a transaction");
    bench.answer(&mut client, &[msg(b'C', b"COMMIT\0"), msg(b'Z', b"I")].concat());
    client.entered = false;
    assert_eq!(tags(&bench.send(&mut client, &[parse("", "select 1"), sync()].concat()).0), "QPS");
    bench.answer(&mut client, &[own, server("1Z")].concat());
    assert_eq!(bench.send(&mut client, &query("reset all")).0, query("reset all"));
    bench.answer(&mut client, &[msg(b'C', b"RESET\0"), msg(b'Z', b"I")].concat());
    assert_eq!(tags(&bench.send(&mut client, &query("select 1")).0), "QQ", "it may have another name now");
}

#[test]
fn statement_mode_does_not_tell_that_a_transaction_was_begun() {
    let (mut bench, mut client) = (Bench { mode: Mode::Statement, ..Bench::new() }, Client::default());
    bench.send(&mut client, &query("begin"));
    assert_eq!(tags(&bench.answer(&mut client, &[msg(b'C', b"BEGIN\0"), msg(b'Z', b"T")].concat())), "C");
    assert_eq!(bench.exchange.status(), b'T');
}

#[test]
fn long_messages_stream_and_those_that_must_be_whole_are_bounded() {
    let mut bench = Bench { max: SMALL, ..Bench::new() };
    let mut client = Client::default();
    let long = query(&"x".repeat(3 * SMALL));
    let (sent, stop) = bench.send(&mut client, &long[..SMALL]);
    assert_eq!((sent.len(), stop), (SMALL, Stop::More));
    assert!(!client.ingress.is_between_messages());
    assert_eq!(client.ingress.mine.pin(), Some(Pin::Code), "nobody has looked at all of it");
    let (sent, _) = bench.send(&mut client, &long[SMALL..2 * SMALL]);
    assert_eq!(sent.len(), SMALL);
    let (sent, _) = bench.send(&mut client, &long[2 * SMALL..]);
    assert_eq!(sent.len(), long.len() - 2 * SMALL);
    assert!(client.ingress.is_between_messages());

    let mut client = Client::default();
    let long = parse("s", &"x".repeat(3 * SMALL));
    let stop = bench.send(&mut client, &long[..SMALL]).1;
    assert!(matches!(stop, Stop::Fatal(SqlState::PROGRAM_LIMIT, _)), "{stop:?}");
}

#[test]
fn a_clients_statements_are_bounded_together() {
    let mut bench = Bench { max: 1024, ..Bench::new() };
    let mut client = Client::default();
    for n in 0.. {
        let (_, stop) = bench.send(&mut client, &[parse(&format!("s{n}"), &"x".repeat(900)), sync()].concat());
        if let Stop::Fatal(code, _) = stop {
            assert_eq!(code, SqlState::PROGRAM_LIMIT);
            assert!((16..20).contains(&n), "{n}");
            return;
        }
        // The text is known to the server after the first time.
        bench.answer(&mut client, &server(if n == 0 { "1Z" } else { "Z" }));
    }
}

#[test]
fn garbage_ends_the_client() {
    for bytes in
        [&b"p\0\0\0\x04"[..], b"Z\0\0\0\x05I", b"Q\0\0\0\x03", b"Q\xff\xff\xff\xff", b"\0\0\0\0\x04", b"B\0\0\0\x05x"]
    {
        let (mut bench, mut client) = (Bench::new(), Client::default());
        let (sent, stop) = bench.send(&mut client, bytes);
        assert!(sent.is_empty() && matches!(stop, Stop::Fatal(SqlState::PROTOCOL_VIOLATION, _)), "{bytes:?}: {stop:?}");
    }
    let (mut bench, mut client) = (Bench::new(), Client::default());
    assert_eq!(bench.send(&mut client, &msg(b'X', b"")).1, Stop::Terminate);
}

#[test]
fn large_rows_pass_in_pieces() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &query("select"));
    let bytes = [msg(b'T', b"x"), msg(b'D', &vec![7; 3 * SMALL]), msg(b'C', b"SELECT 1\0"), msg(b'Z', b"I")].concat();
    assert_eq!(bench.answer(&mut client, &bytes), bytes);
}

#[test]
fn what_the_server_says_of_itself_is_understood() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &query("discard all"));
    bench.answer(&mut client, &msg(b'E', b"SERROR\0VERROR\0C25006\0Mx\0\0"));
    assert!(bench.egress.read_only && !bench.egress.fatal);
    bench.answer(&mut client, &msg(b'E', b"SFATAL\0VFATAL\0C57P01\0Mx\0\0"));
    assert!(bench.egress.fatal && !bench.egress.own_fault);
    bench.answer(&mut client, &msg(b'E', b"SFATAL\0VFATAL\0C25P03\0Mx\0\0"));
    assert!(bench.egress.own_fault);
}

#[test]
fn a_parameter_that_changes_behind_a_statement_is_told_from_one_that_the_server_reads() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    let zone = msg(b'S', b"TimeZone\0UTC\0");
    assert_eq!(bench.answer(&mut client, &zone), zone, "the client gets it all the same");
    bench.send(&mut client, &query("select f()"));
    bench.answer(&mut client, &msg(b'S', b"in_hot_standby\0off\0"));
    assert!(!client.ingress.mine.wants_audit(true));
    bench.answer(&mut client, &[zone, server("CZ")].concat());
    assert!(client.ingress.mine.wants_audit(true));
}

#[test]
fn discard_all_ends_every_named_statement() {
    let (mut bench, mut client) = (Bench::new(), Client::default());
    bench.send(&mut client, &[parse("a", "select 1"), sync()].concat());
    bench.answer(&mut client, &server("1Z"));
    bench.send(&mut client, &query("discard all"));
    bench.answer(&mut client, &[msg(b'C', b"DISCARD ALL\0"), msg(b'Z', b"I")].concat());
    assert!(client.names.get(b"a").is_none() && bench.cache.is_empty());
}

/// Size of the future that a function makes.
fn size_of_future<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_client_costs_little_memory() {
    // Every idle client keeps one of these, and little else: each local that lives across an await adds to all.
    let size = size_of_future(super::serve) + size_of::<super::Serving>();
    assert!(size <= 1024, "a client's task takes {size} bytes");
}
