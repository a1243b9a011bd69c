//! A client and a server with the proxy's pure parts between them, which move bytes as its relay does.

use poolkeeper::api::resolve::Mode;
use poolkeeper::pg::exchange::{Exchange, OutOfStep};
use poolkeeper::pg::message;
use poolkeeper::pg::session::mine::Care;
use poolkeeper::pg::session::prepared::{Cache, Names, Registry};
use poolkeeper::pg::session::server::{Parameters, Session};
use poolkeeper::sidecar::catalog::Catalog;
use poolkeeper::sidecar::proxy::buffer::{Buffer, LARGE, Outgoing, SMALL};
use poolkeeper::sidecar::proxy::egress::{Egress, Seen, Sides};
use poolkeeper::sidecar::proxy::ingress::{Ingress, Rules, Server, Stop, Taken, Turn};
use poolkeeper::sidecar::stats::Worker;

/// Everything that one client and the server it has need.
pub struct Pair {
    mode: Mode,
    shares_statements: bool,
    max_buffered: usize,
    application: Option<&'static str>,
    registry: Registry,
    stats: Worker,
    /// The client's side.
    pub ingress: Ingress,
    names: Names,
    input: Buffer,
    /// The server's side.
    pub exchange: Exchange,
    cache: Cache,
    egress: Egress,
    session: Session,
    parameters: Parameters,
    entered: bool,
    from_server: Buffer,
    catalog: Catalog,
}

impl Pair {
    /// As a policy might have it; each bit of `flags` decides something.
    pub fn new(flags: u8) -> Self {
        let mode = [Mode::Transaction, Mode::Session, Mode::Transaction, Mode::Statement][usize::from(flags & 3)];
        Self {
            mode,
            shares_statements: flags & 4 == 0,
            max_buffered: if flags & 8 == 0 { SMALL } else { 256 },
            application: (flags & 16 != 0).then_some("it's\\me"),
            registry: Registry::default(),
            stats: Worker::default(),
            ingress: Ingress::new(mode),
            names: Names::default(),
            input: Buffer::default(),
            exchange: Exchange::default(),
            cache: Cache::new(2),
            egress: Egress::default(),
            session: Session::default(),
            parameters: Parameters::default(),
            entered: false,
            from_server: Buffer::default(),
            catalog: Catalog::default(),
        }
    }

    /// Whether all that the client sends goes to the server as it is.
    pub fn is_transparent(&self) -> bool {
        self.mode == Mode::Session && self.application.is_none()
    }

    /// Whether statements have names of the pooler's on the server.
    pub fn names_statements(&self) -> bool {
        self.mode != Mode::Session && self.shares_statements
    }

    /// What the client has sent and nobody has taken.
    pub fn untaken(&self) -> &[u8] {
        self.input.bytes()
    }

    /// The client sends `bytes`: how many of them were taken in, what the server gets of them and of those before, and
    /// what stopped it.
    pub fn client_sends(&mut self, bytes: &[u8]) -> (usize, Vec<u8>, Stop) {
        let max = self.max_buffered.max(SMALL);
        let space = self.input.space(max);
        let n = space.len().min(bytes.len());
        space[..n].copy_from_slice(&bytes[..n]);
        self.input.filled(n);
        assert!(self.input.len() <= max.max(LARGE), "more is held than allowed");

        let mut out = Outgoing::default();
        let server =
            Server { exchange: &mut self.exchange, cache: &mut self.cache, session: &mut self.session, out: &mut out };
        let rules = Rules {
            mode: self.mode,
            care: Care::Preserve,
            shares_statements: self.shares_statements,
            max_buffered: self.max_buffered,
            application: self.application,
            prepares: false,
            catalog: &self.catalog,
            client: 7,
            statements: &self.registry,
            stats: &self.stats,
        };
        let mut turn = Turn {
            input: Taken::new(&self.input, 0),
            names: &mut self.names,
            server,
            rules: &rules,
            first: false,
            changeable: false,
        };
        if !std::mem::replace(&mut self.entered, true) {
            assert!(self.ingress.enter(&mut turn).expect("random bytes"));
        }
        let stop = self.ingress.process(&mut turn);
        let taken = turn.input.taken();
        assert!(taken <= self.input.len());
        assert!(n > 0 || bytes.is_empty() || taken > 0 || stop != Stop::More, "full, and nothing moves");
        // Names and texts, one message's more than allowed.
        assert!(self.names.bytes() <= 17 * self.max_buffered.max(SMALL));
        let sent = out.take(&self.input);
        self.input.consume(taken);
        self.input.rest();
        (n, sent, stop)
    }

    /// The server sends `bytes` in one piece: what the client gets.
    ///
    /// # Errors
    /// If the server is out of step.
    pub fn server_sends(&mut self, bytes: &[u8]) -> Result<(Vec<u8>, Seen), (Vec<u8>, OutOfStep)> {
        let (mut rest, mut got, mut all) = (bytes, Vec::new(), Seen::default());
        loop {
            let space = self.from_server.space(LARGE);
            let n = space.len().min(rest.len());
            assert!(n > 0 || rest.is_empty(), "full, and nothing moves");
            space[..n].copy_from_slice(&rest[..n]);
            self.from_server.filled(n);
            rest = &rest[n..];

            let mut out = Outgoing::default();
            let mut sides = Sides {
                exchange: &mut self.exchange,
                cache: &mut self.cache,
                names: &mut self.names,
                statements: &self.registry,
                ingress: &mut self.ingress,
                out: &mut out,
                session: &mut self.session,
                parameters: &mut self.parameters,
                single: self.mode == Mode::Statement,
                stats: &self.stats,
            };
            let result = self.egress.process(&self.from_server, &mut sides);
            got.extend(out.take(&self.from_server));
            self.egress.wrote(&mut self.from_server);
            match result {
                Ok(seen) => {
                    all.ready += seen.ready;
                    all.ended += seen.ended;
                    all.refused |= seen.refused;
                }
                Err(error) => return Err((got, error)),
            }
            if rest.is_empty() || all.refused {
                self.from_server.rest();
                return Ok((got, all));
            }
        }
    }

    /// Answers of the pooler's own that nothing of the server will bring along.
    pub fn own_answers(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.exchange.owes_only_own() {
            self.exchange.take_own(&mut out, &mut self.names);
        }
        out
    }

    /// A probe, if one is wanted now.
    pub fn probe(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.exchange.wants_probe() && self.ingress.is_between_messages() {
            self.exchange.probe();
            message::close_statement(&mut out, b"pk_probe");
            message::sync(&mut out);
        }
        out
    }

    /// Whether no message of the server is cut in two.
    pub fn is_server_between_messages(&self) -> bool {
        self.egress.is_between_messages(&self.from_server)
    }

    /// What the server said of itself: that it ends, by its own fault, that it is read-only.
    pub fn told(&self) -> (bool, bool, bool) {
        (self.egress.fatal, self.egress.own_fault, self.egress.read_only)
    }
}
