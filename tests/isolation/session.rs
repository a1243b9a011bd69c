//! One client's session: it talks, looks at every message, and knows its model.

use crate::bench::World;
use crate::dice::Dice;
use crate::judge::{Kind, Violation};
use crate::marks::foreign_tags;
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
    /// The tags of all messages, but for notices, parameters and notifications; rows as one.
    pub shape: String,
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
    /// How many values it has made.
    pub serial: u64,
    /// What ParameterStatus messages said lately: name, value, and what the model showed then.
    pub told: Vec<(String, String, String)>,
    /// The error with which the connection is ended.
    pub fatal: Option<ServerError>,
    /// It has something that cannot be set again on another server: it may be ended for that.
    pub doomed: bool,
}

/// Parameters that the model knows and PostgreSQL reports.
pub const REPORTED: [&str; 5] = ["TimeZone", "DateStyle", "client_encoding", "application_name", "IntervalStyle"];

/// Fatal errors that may end a session while no server is lost: more bound clients than the policy allows, what is
/// refused, no server to be had.
const ENDS: [&str; 3] = ["53400", "0A000", "53300"];

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
            b'S' => self.told(&message),
            b'N' => self.notices.push(message.field(b'M')),
            b'A' => self.heard(&message)?,
            _ => {}
        }
        Ok(message)
    }

    fn told(&mut self, message: &Message) {
        self.client.note(message);
        let (name, value) = (message.texts()[0].clone(), message.texts()[1].clone());
        let shown = self.shown(&name);
        self.told.push((name, value, shown));
    }

    /// What a reported parameter shows by the model.
    pub fn shown(&self, name: &str) -> String {
        let default = if name == "application_name" { "" } else { self.world.default(name) };
        self.model.shown(name, default).to_owned()
    }

    /// What was told must have been so before the statement that was then answered, or be so since.
    fn check_told(&mut self) -> Step {
        for (name, value, before) in std::mem::take(&mut self.told) {
            let known = REPORTED.contains(&name.as_str()) && !self.model.hidden.contains(&name);
            let now = self.shown(&name);
            // An error takes back at once what its transaction has set.
            let began = self.model.saved.as_ref().map(|saved| {
                let model = Model { now: (**saved).clone(), startup: self.model.startup.clone(), ..Model::default() };
                model.shown(&name, self.world.default(&name)).to_owned()
            });
            if known && value != before && value != now && began.as_ref() != Some(&value) {
                let details = format!("{name} was told to be {value:?}; it was {before:?} and is {now:?}");
                return Err(self.violated(Kind::Leak, "a ParameterStatus that is not this session's", &details));
            }
        }
        Ok(())
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
                Err(Halt::Leave(_)) => return Err(self.ended()),
                Err(halt) => return Err(halt),
            };
            match message.tag {
                b'D' => reply.rows.push(message.row()),
                b'C' => reply.tags.push(message.texts()[0].clone()),
                b'E' => {
                    let error = ServerError::of(&message);
                    if error.severity == "FATAL" {
                        self.fatal = Some(error.clone());
                    }
                    reply.errors.push(error);
                }
                b'd' => reply.data.push(String::from_utf8_lossy(&message.body).into_owned()),
                b'V' => reply.rows.push(vec![Some(String::from_utf8_lossy(&message.body[4..]).into_owned())]),
                _ => {}
            }
            let tag = char::from(message.tag);
            let more = tag == 'D' && reply.shape.ends_with('D');
            if !more && !"NSA".contains(tag) {
                reply.shape.push(tag);
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
    fn ended(&mut self) -> Halt {
        let Some(error) = self.fatal.clone() else {
            return self.violated(Kind::Foreign, "closed without a word", "");
        };
        let what = format!("{} {}: {:.60}", error.severity, error.code, error.message);
        if self.doomed || ENDS.contains(&error.code.as_str()) {
            return Halt::Leave(what);
        }
        self.violated(Kind::Foreign, &format!("ended with {what}"), &error.message)
    }

    /// Sends bytes and reads up to so many ReadyForQuery.
    pub fn exchange(&mut self, bytes: &[u8], readies: usize) -> Step<Reply> {
        self.check_told()?;
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
        let simple = self.dice.chance(50);
        let bytes = if simple { fe::query(sql) } else { fe::extended(sql, &[]) };
        let reply = self.exchange(&bytes, 1)?;
        self.check_shape(simple, &reply)?;
        Ok(reply.errors.first().cloned().map_or(Ok(reply.rows), Err))
    }

    /// The answer to one statement has exactly its messages.
    fn check_shape(&mut self, simple: bool, reply: &Reply) -> Step {
        let (begin, shape) = if simple { ("", reply.shape.as_str()) } else { ("12", reply.shape.as_str()) };
        let fits = match shape.strip_suffix("EZ") {
            // Wherever it failed.
            Some(rest) => {
                if simple {
                    ["", "T", "TD"].contains(&rest)
                } else {
                    "12TD".starts_with(rest) || rest == "12n"
                }
            }
            None => shape.strip_prefix(begin).is_some_and(|rest| {
                let rest = if simple { rest } else { rest.trim_start_matches('n') };
                ["CZ", "TCZ", "TDCZ"].contains(&rest)
            }),
        };
        if fits {
            return Ok(());
        }
        let details = format!("{} and {:?}", reply.shape, reply.tags);
        Err(self.violated(Kind::Leak, "messages that nobody asked for", &details))
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
