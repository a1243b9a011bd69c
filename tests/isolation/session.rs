//! One client's session: it talks, looks at every message, and knows its model.

use crate::bench::World;
use crate::judge::{Kind, Violation};
use crate::model::Model;
use crate::support::message::{Message, ServerError};
use crate::support::{Client, fe};
use std::collections::{BTreeMap, BTreeSet};

/// Rows as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Why an operation ends early.
#[derive(Debug)]
pub enum Halt {
    /// Nothing was done: no server was to be had. The session goes on.
    Skip,
    /// The session is over, as it may be.
    Leave(String),
    /// The session is over because of a violation.
    Violated,
}

/// What an operation returns.
pub type Step<T = ()> = Result<T, Halt>;

/// Everything up to what was waited for.
#[derive(Debug, Default)]
pub struct Reply {
    /// DataRows.
    pub rows: Rows,
    /// Command tags.
    pub tags: Vec<String>,
    /// ErrorResponses.
    pub errors: Vec<ServerError>,
    /// CopyData.
    pub data: Vec<String>,
    /// The status of the last ReadyForQuery.
    pub status: u8,
}

/// Random numbers that a seed repeats (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// With a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap()
    }

    /// With this many chances in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A session of one client.
pub struct Session<'a> {
    /// What all clients share.
    pub world: &'a World,
    /// The client's number.
    pub number: usize,
    /// What marks its values.
    pub tag: String,
    /// The connection.
    pub client: Client,
    /// What it should see.
    pub model: Model,
    /// Its choices.
    pub dice: Dice,
    /// The operation of the moment.
    pub operation: &'static str,
    /// Operations by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// The server that last answered a probe.
    pub backend: String,
    /// Notices of the last reply.
    pub notices: Vec<String>,
    /// Notifications not yet looked at: channel and payload.
    pub heard: Vec<(String, String)>,
    /// Errors that the last probe may meet and must not count.
    pub serial: u64,
}

/// The tag of a client's session.
pub fn tag(number: usize, turn: usize) -> String {
    format!("t{number:03}s{turn:05}e")
}

/// Tags in bytes that are not this session's; in capitals they stand in names of time zones.
pub fn foreign_tags(bytes: &[u8], own: &str) -> Vec<String> {
    let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let is_tag = |w: &[u8]| {
        matches!((w[0], w[4], w[10]), (b't', b's', b'e') | (b'T', b'S', b'E')) && digits(&w[1..4]) && digits(&w[5..10])
    };
    let found = bytes.windows(own.len()).filter(|w| is_tag(w) && !w.eq_ignore_ascii_case(own.as_bytes()));
    found.map(|w| String::from_utf8_lossy(w).to_ascii_lowercase()).collect()
}

/// Fatal errors that end a session as the documentation allows.
const ENDS: [&str; 6] = ["53400", "0A000", "57P01", "08006", "53300", "57P05"];

impl Session<'_> {
    /// Another value with this session's tag.
    pub fn value(&mut self) -> String {
        self.serial += 1;
        format!("{}.{}", self.tag, self.serial)
    }

    /// Records a violation and ends the session.
    pub fn violated(&mut self, kind: Kind, what: &str, details: &str) -> Halt {
        self.report(kind, what, details);
        Halt::Violated
    }

    /// Records a violation.
    pub fn report(&mut self, kind: Kind, what: &str, details: &str) {
        let others = foreign_tags(details.as_bytes(), &self.tag);
        let others: BTreeSet<usize> = others.iter().filter_map(|tag| tag[1..4].parse().ok()).collect();
        let story = format!(
            "    seed {}, client {} ({}), server {}: {details:.1500}",
            self.world.seed, self.number, self.tag, self.backend
        );
        let violation = Violation { kind, operation: self.operation, what: what.to_owned(), story };
        self.world.judge.found(self.number, &others, violation);
    }

    /// Something of the session's own is gone: how bad that is depends on whether its text showed that it was there.
    pub fn lost(&mut self, key: &str, what: &str, details: &str) -> Halt {
        if self.model.hidden.contains(key) {
            self.report(Kind::Hidden, what, details);
            return Halt::Leave("hidden state lost".into());
        }
        self.violated(Kind::Carry, what, details)
    }

    /// Remembers what is done.
    pub fn note(&self, what: &str) {
        self.world.judge.note(self.number, format!("{}: {what}", self.operation));
    }

    /// Writes; a connection that is gone says why when it is read.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.client.write(bytes);
    }

    /// The next message, looked at.
    fn message(&mut self) -> Step<Message> {
        let message = match self.client.poll_message(self.client.timeout()) {
            Ok(Some(message)) => message,
            Ok(None) => return Err(Halt::Leave(String::new())),
            Err(time) => return Err(self.violated(Kind::Missing, "no answer", &format!("for {time:?}"))),
        };
        let shared = message.tag == b'A' && message.texts().iter().any(|text| text.ends_with("everybody"));
        let foreign = foreign_tags(&message.body, &self.tag);
        if !foreign.is_empty() && !shared {
            let kind = match message.tag {
                b'D' => "a row",
                b'd' => "COPY data",
                b'E' => "an error",
                b'N' => "a notice",
                b'A' => "a notification",
                b'S' => "a ParameterStatus",
                _ => "another message",
            };
            let what = format!("another session's value in {kind} ({})", self.operation);
            let text = String::from_utf8_lossy(&message.body).replace('\0', " ");
            return Err(self.violated(Kind::Leak, &what, &format!("{foreign:?} in {text}")));
        }
        match message.tag {
            b'S' => self.client.note(&message),
            b'N' => self.notices.push(message.field(b'M')),
            b'A' => self.heard(&message)?,
            _ => {}
        }
        Ok(message)
    }

    fn heard(&mut self, message: &Message) -> Step {
        // A process id, then two texts.
        let texts = Message { tag: b'A', body: message.body[4..].to_vec() }.texts();
        let (channel, payload) = (texts[0].clone(), texts.get(1).cloned().unwrap_or_default());
        let before = self.model.saved.as_ref().is_some_and(|saved| saved.channels.contains(&channel));
        if !before && !self.model.now.channels.contains(&channel) {
            let text = format!("{channel}: {payload}");
            return Err(self.violated(Kind::Leak, "a notification on a channel not listened to", &text));
        }
        self.heard.push((channel, payload));
        Ok(())
    }

    /// Reads until so many messages with one of these tags have come.
    pub fn read(&mut self, until: &[u8], count: usize) -> Step<Reply> {
        let mut reply = Reply::default();
        let mut left = count;
        self.notices.clear();
        while left > 0 {
            let message = match self.message() {
                Ok(message) => message,
                Err(Halt::Leave(_)) => return Err(self.ended(&reply)),
                Err(halt) => return Err(halt),
            };
            match message.tag {
                b'D' => reply.rows.push(message.row()),
                b'C' => reply.tags.push(message.texts()[0].clone()),
                b'E' => reply.errors.push(ServerError::of(&message)),
                b'd' => reply.data.push(String::from_utf8_lossy(&message.body).into_owned()),
                b'V' => reply.rows.push(vec![Some(String::from_utf8_lossy(&message.body[4..]).into_owned())]),
                b'Z' => reply.status = message.body[0],
                _ => {}
            }
            if until.contains(&message.tag) {
                left -= 1;
            }
        }
        let own_error = reply.errors.iter().map(|error| error.code.as_str()).collect::<Vec<_>>().join(" ");
        if !own_error.is_empty() {
            self.note(&format!("  → {own_error}"));
        }
        Ok(reply)
    }

    /// The connection has ended: with a reason that may be, or not.
    fn ended(&mut self, reply: &Reply) -> Halt {
        let Some(error) = reply.errors.last() else {
            return self.violated(Kind::Foreign, "closed without a word", "");
        };
        if ENDS.contains(&error.code.as_str()) {
            return Halt::Leave(format!("{} {}", error.severity, error.code));
        }
        let what = format!("ended with {} {}", error.severity, error.code);
        self.violated(Kind::Foreign, &what, &error.message.clone())
    }

    /// Sends bytes and reads up to so many ReadyForQuery.
    pub fn exchange(&mut self, bytes: &[u8], readies: usize) -> Step<Reply> {
        self.send(bytes);
        let reply = self.read(b"Z", readies)?;
        let refused = reply.errors.iter().filter(|error| error.code == "53300").count();
        if !self.model.in_transaction() && refused > 0 {
            // Each Sync asks for a server anew: what was done of a pipeline is not known.
            let all = refused == readies;
            return Err(if all { Halt::Skip } else { Halt::Leave("refused 53300 in part".into()) });
        }
        Ok(reply)
    }

    /// Runs a statement by a protocol of chance; an error is returned.
    pub fn attempt(&mut self, sql: &str) -> Step<Result<Rows, ServerError>> {
        self.note(sql);
        let bytes = if self.dice.chance(50) { fe::query(sql) } else { fe::extended(sql, &[]) };
        let reply = self.exchange(&bytes, 1)?;
        Ok(reply.errors.first().cloned().map_or(Ok(reply.rows), Err))
    }

    /// Runs a statement that must work.
    pub fn ask(&mut self, sql: &str) -> Step<Rows> {
        match self.attempt(sql)? {
            Ok(rows) => Ok(rows),
            Err(error) => Err(self.unexpected(&error)),
        }
    }

    /// The same by the simple protocol: several statements, if they are wanted.
    pub fn simple(&mut self, sql: &str) -> Step<Rows> {
        self.note(sql);
        let reply = self.exchange(&fe::query(sql), 1)?;
        self.all_well(reply)
    }

    /// The same by the extended protocol, with parameters.
    pub fn extended(&mut self, sql: &str, parameters: &[&str]) -> Step<Rows> {
        self.note(&format!("{sql} {parameters:?}"));
        let reply = self.exchange(&fe::extended(sql, parameters), 1)?;
        self.all_well(reply)
    }

    /// The rows of a reply that may have no error.
    pub fn all_well(&mut self, reply: Reply) -> Step<Rows> {
        match reply.errors.first() {
            Some(error) => Err(self.unexpected(&error.clone())),
            None => Ok(reply.rows),
        }
    }

    /// A statement failed that should have worked: refused as documented, or nobody knows why.
    pub fn unexpected(&mut self, error: &ServerError) -> Halt {
        if ["0A000", "53400"].contains(&error.code.as_str()) {
            return Halt::Leave(format!("refused {}", error.code));
        }
        let what = format!("error {} in {}", error.code, self.operation);
        self.violated(Kind::Foreign, &what, &error.message.clone())
    }

    /// Runs a statement that must fail with one of these SQLSTATEs; it is a leak if it works.
    pub fn must_fail(&mut self, sql: &str, codes: &[&str]) -> Step {
        match self.attempt(sql)? {
            Ok(rows) => {
                let what = format!("{} works on something that is not there", self.operation);
                Err(self.violated(Kind::Leak, &what, &format!("{sql}: {rows:?}")))
            }
            Err(error) if codes.contains(&error.code.as_str()) => Ok(()),
            Err(error) => Err(self.unexpected(&error)),
        }
    }

    /// A row must be exactly this.
    pub fn must_be(&mut self, rows: &Rows, expected: &[&str]) -> Step {
        let fits = rows.len() == 1 && rows[0].iter().map(|v| v.as_deref().unwrap_or("~")).eq(expected.iter().copied());
        if fits {
            return Ok(());
        }
        let what = format!("a wrong answer to {}", self.operation);
        Err(self.violated(Kind::Leak, &what, &format!("{rows:?} instead of {expected:?}")))
    }

    /// The reply to a cancelled or refused statement is read, whatever it is.
    pub fn first(rows: &Rows) -> Option<&str> {
        rows.first()?.first()?.as_deref()
    }
}
