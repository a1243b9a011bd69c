//! Any bytes of a client, and a server that keeps to the protocol.

use poolkeeper::pg::frame;
use poolkeeper::sidecar::proxy::ingress::Stop;

use super::postgres::{Luck, Postgres};
use super::streams::Pair;

/// Messages that a server gets as the client wrote them or not at all.
const VERBATIM: &[u8] = b"QESHFdcf";

/// The first byte is how the pool is set up, the second the server's luck and the sizes of reads; then the client's bytes.
pub fn run(data: &[u8]) {
    let [flags, seed, client @ ..] = data else { return };
    let mut client = client;
    let mut luck = Luck::new(*seed);
    let mut play = Play::new(*flags, Luck::new(seed.wrapping_add(1)));
    loop {
        let read = 1 + luck.below([8, 64, 4096][usize::from(*seed) % 3]);
        let some = read.min(client.len());
        let moved = play.moves();
        let (n, stop) = play.client_sends(&client[..some]);
        let held = stop == Some(Stop::Held) && !moved && !play.moves();
        assert!(!held, "held, and nothing will come: {:?}", play.pair.exchange);
        client = &client[n..];
        for _ in 0..luck.below(4) {
            if !play.server_works(1 + luck.below(64)) {
                return;
            }
        }
        if let Some(Stop::Terminate | Stop::Another | Stop::Fatal(..)) = stop {
            return play.check_bytes();
        }
        if client.is_empty() && stop == Some(Stop::More) {
            break;
        }
    }
    play.end();
}

/// A client, what is between, and a server.
struct Play {
    pair: Pair,
    server: Postgres,
    /// All that the client has sent.
    sent: Vec<u8>,
    /// All that the server was sent, but for probes.
    passed: Vec<u8>,
    /// All that the client got.
    got: Vec<u8>,
    /// At some time messages were dropped that the server would have skipped.
    skipped: bool,
}

impl Play {
    fn new(flags: u8, luck: Luck) -> Self {
        let pair = Pair::new(flags);
        let mut server = Postgres::new(luck);
        server.names_are_the_poolers = pair.names_statements();
        Self { pair, server, sent: Vec::new(), passed: Vec::new(), got: Vec::new(), skipped: false }
    }

    /// How much of it was read, and what stopped it; nothing of either while answers are owed that would pile up.
    fn client_sends(&mut self, bytes: &[u8]) -> (usize, Option<Stop>) {
        self.skipped |= self.pair.exchange.is_skipping();
        let (n, passed, stop) = self.pair.client_sends(bytes);
        self.sent.extend(&bytes[..n]);
        self.server.hear(&passed);
        self.server.hear(&self.pair.probe());
        self.passed.extend(passed);
        self.got.extend(self.pair.own_answers());
        (n, Some(stop))
    }

    /// It deals with a message, and up to `most` bytes of its answers arrive. False if the client is refused, or has lost
    /// its server.
    fn server_works(&mut self, most: usize) -> bool {
        if self.server.dead && self.server.output.is_empty() {
            self.check_bytes();
            return false;
        }
        self.server.step();
        let n = most.min(self.server.output.len());
        let bytes: Vec<u8> = self.server.output.drain(..n).collect();
        match self.pair.server_sends(&bytes) {
            Ok((got, seen)) => {
                self.got.extend(got);
                if seen.refused {
                    return false;
                }
            }
            Err((_, error)) => panic!("an honest server is out of step: {error}"),
        }
        self.server.hear(&self.pair.probe());
        self.got.extend(self.pair.own_answers());
        self.skipped |= self.pair.exchange.is_skipping();
        self.check_free();
        true
    }

    /// Whether the server has something to deal with, or to say, if only that it has ended.
    fn moves(&self) -> bool {
        self.server.dead || self.server.has_work() || !self.server.output.is_empty()
    }

    /// Who is taken for free has nothing to do and nothing to say.
    fn check_free(&mut self) {
        if self.pair.exchange.is_free() && self.pair.ingress.is_between_messages() {
            while self.server.step() {}
            assert!(self.server.is_idle(), "taken for free: {:?}", self.server);
        }
    }

    /// The client sends nothing more: the server comes to its end, and whoever is idle is known to be.
    fn end(&mut self) {
        while self.server.step() || !self.server.output.is_empty() {
            if !self.server_works(usize::MAX) {
                return;
            }
        }
        self.check_bytes();
        let rest = self.pair.untaken();
        assert!(matches!(frame::whole(rest), Ok(None)) || rest.is_empty(), "a whole message lies about: {rest:?}");
        // A batch of which the pooler has answered all so far is not over either without its Sync.
        let synced =
            messages(&self.sent).last().is_some_and(|last| self.sent.ends_with(last) && b"SQF".contains(&last[0]));
        if self.server.is_idle() && rest.is_empty() && synced {
            assert!(self.pair.exchange.is_free(), "idle and not free: {:?}", self.pair.exchange);
        }
        if self.pair.is_server_between_messages() {
            let mut rest = &self.got[..];
            while let Some(whole) = frame::whole(rest).unwrap() {
                rest = &rest[whole.total()..];
            }
            assert!(rest.is_empty(), "the client gets a message cut in two");
        }
    }

    /// Nothing is invented, nothing is lost, nothing changes its place.
    fn check_bytes(&self) {
        let (asked, done) = (messages(&self.sent), messages(&self.passed));
        // Data of a COPY that nobody asked for is dropped.
        let copies = has_copy_data(&self.sent);
        if self.pair.is_transparent() && !self.skipped && !copies {
            let taken = self.sent.len() - self.pair.untaken().len();
            assert!(self.passed.starts_with(&self.sent[..taken]), "not what the client sent");
        }
        let lower = self.sent.to_ascii_lowercase();
        let looks_at_names = [&b"prepare"[..], b"execute", b"deallocate"].into_iter().any(|word| memmem(&lower, word));
        let mut asked = asked.iter();
        for message in done {
            let own = [&b"SET application_name TO"[..], b"DISCARD SEQUENCES", b"DEALLOCATE ALL"];
            let is_own = own.iter().any(|sql| message[5..].starts_with(sql)) || memmem(message, b"pk_");
            let mut ahead = asked.clone();
            if looks_at_names && message[0] == b'S' {
                // Each of the client's statements is prepared anew in a batch of its own.
                continue;
            }
            if is_own && ahead.next() != Some(&message) {
                continue;
            }
            let found = is_own || ahead.any(|other| *other == message);
            assert!(found, "nobody asked for {message:?}");
            asked = ahead;
        }
    }
}

fn memmem(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Whether there is any message of a COPY's data, be it cut.
fn has_copy_data(mut bytes: &[u8]) -> bool {
    while let Ok(Some(header)) = frame::header(bytes) {
        if b"dcf".contains(&header.tag) {
            return true;
        }
        bytes = bytes.get(header.total()..).unwrap_or_default();
    }
    false
}

/// The whole messages of a stream that are passed as they are.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Ok(Some(whole)) = frame::whole(bytes) {
        let (message, rest) = bytes.split_at(whole.total());
        if VERBATIM.contains(&whole.tag) {
            messages.push(message);
        }
        bytes = rest;
    }
    messages
}
