//! A PostgreSQL that is bytes only: it answers each message as the protocol says, and what a statement does is luck.

use std::collections::{HashMap, HashSet, VecDeque};

use poolkeeper::pg::error::SqlState;
use poolkeeper::pg::frame;
use poolkeeper::pg::message::{self, Reader, Severity};

/// Reproducible numbers (xorshift64, Marsaglia 2003).
#[derive(Debug, Clone)]
pub struct Luck(u64);

impl Luck {
    /// The same seed, the same luck.
    pub fn new(seed: u8) -> Self {
        Self((u64::from(seed) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// Who asked for the COPY that goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Copy {
    No,
    Query,
    Execute,
}

/// One session.
#[derive(Debug)]
pub struct Postgres {
    luck: Luck,
    /// What was sent and not read.
    input: VecDeque<u8>,
    /// What it answered and nobody has read.
    pub output: VecDeque<u8>,
    status: u8,
    /// An error was told: everything up to a Sync is skipped.
    skips: bool,
    copy: Copy,
    /// Messages of the extended protocol came since the last Sync.
    batch: bool,
    /// It has ended.
    pub dead: bool,
    prepared: HashSet<Vec<u8>>,
    /// What the pooler runs in the middle of a client's batch, by its name.
    asides: HashMap<Vec<u8>, Vec<u8>>,
    /// Names whose Parse or Close failed or was skipped: nobody knew that when the next messages were sent.
    doubtful: HashSet<Vec<u8>>,
    /// Names that begin with `pk_` are the pooler's: each must be there when used, and only once.
    pub names_are_the_poolers: bool,
}

impl Postgres {
    /// Idle, with nothing prepared.
    pub fn new(luck: Luck) -> Self {
        Self {
            luck,
            input: VecDeque::new(),
            output: VecDeque::new(),
            status: b'I',
            skips: false,
            copy: Copy::No,
            batch: false,
            dead: false,
            prepared: HashSet::new(),
            asides: HashMap::new(),
            doubtful: HashSet::new(),
            names_are_the_poolers: false,
        }
    }

    /// Takes what was sent to it.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// Whether it waits for a message, outside of everything.
    pub fn is_idle(&self) -> bool {
        let between = self.copy == Copy::No && !self.skips && !self.batch && !self.dead;
        between && self.status == b'I' && self.input.is_empty() && self.output.is_empty()
    }

    /// Whether a whole message waits for it.
    pub fn has_work(&self) -> bool {
        let bytes: Vec<u8> = self.input.iter().copied().collect();
        matches!(frame::whole(&bytes), Ok(Some(_)))
    }

    /// Deals with one message; false if none is there whole.
    pub fn step(&mut self) -> bool {
        let bytes = self.input.make_contiguous();
        if let Some(header) = frame::header(bytes).expect("a length that nobody may send reached the server") {
            // PQ_LARGE_MESSAGE_LIMIT and PQ_SMALL_MESSAGE_LIMIT of its libpq.h count the length's own four bytes.
            let most = if b"QPBFd".contains(&header.tag) { 0x3fff_fffe } else { 10_000 };
            assert!(header.body + 4 <= most, "a length that no client may send reached the server");
        }
        let Ok(Some(whole)) = frame::whole(bytes) else { return false };
        let (tag, body, total) = (whole.tag, whole.body.to_vec(), whole.total());
        self.input.drain(..total);
        self.message(tag, &body);
        true
    }

    fn message(&mut self, tag: u8, body: &[u8]) {
        if self.dead {
            return;
        }
        if self.copy != Copy::No {
            return self.copy_data(tag);
        }
        if self.skips && !matches!(tag, b'S' | b'X') {
            let named = if tag == b'C' { body.get(1..).unwrap_or_default() } else { body };
            if matches!(tag, b'P' | b'C') {
                self.doubtful.insert(Reader::new(named).cstr().unwrap_or_default().to_vec());
            }
            return;
        }
        self.batch |= matches!(tag, b'P' | b'B' | b'D' | b'E' | b'C');
        match tag {
            b'Q' => self.query(body),
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'E' => self.execute(body),
            b'C' => {
                if let Some((b'S', name)) = body.split_first() {
                    self.prepared.remove(name.strip_suffix(b"\0").unwrap_or(name));
                }
                self.say(b'3', b"");
            }
            b'S' => {
                (self.skips, self.batch) = (false, false);
                self.ready();
            }
            b'F' => {
                self.batch = false;
                if self.luck.below(4) == 0 {
                    self.fail();
                } else {
                    self.say(b'V', &[0xff; 4]);
                }
                self.ready();
            }
            b'H' | b'd' | b'c' | b'f' | b'X' => {}
            other => panic!("{:?} is no message for a server", char::from(other)),
        }
    }

    fn query(&mut self, body: &[u8]) {
        self.batch = false;
        self.prepared.remove(&b""[..]);
        // The pooler's own, which cannot fail where it is sent.
        if self.own(body) {
            return self.ready();
        }
        for _ in 0..=self.luck.below(2) {
            if !self.statement(Copy::Query) {
                break;
            }
        }
        if self.copy == Copy::No {
            self.ready();
        }
    }

    /// SQL of the pooler's own, and what it puts its own names into.
    fn own(&mut self, sql: &[u8]) -> bool {
        let sql = sql.strip_suffix(b"\0").unwrap_or(sql);
        let lone = sql.strip_prefix(b"DEALLOCATE \"").and_then(|rest| rest.strip_suffix(b"\""));
        if sql.starts_with(b"SET application_name TO") {
            self.say(b'C', b"SET\0");
        } else if sql == b"DISCARD SEQUENCES" {
            self.say(b'C', b"DISCARD SEQUENCES\0");
        } else if sql == b"DEALLOCATE ALL" {
            self.prepared.clear();
            self.say(b'C', b"DEALLOCATE ALL\0");
        } else if let Some(name) = lone.filter(|name| name.starts_with(b"pk_")) {
            if self.status == b'E' || !self.prepared.remove(name) {
                self.fail();
            } else {
                self.say(b'C', b"DEALLOCATE\0");
            }
        } else {
            return false;
        }
        true
    }

    fn parse(&mut self, body: &[u8]) {
        let mut reader = Reader::new(body);
        let name = reader.cstr().unwrap_or_default().to_vec();
        let sql = reader.cstr().unwrap_or_default();
        if name.starts_with(b"pk_") && (sql == b"DISCARD SEQUENCES" || sql == b"DEALLOCATE ALL") {
            self.asides.insert(name.clone(), sql.to_vec());
        }
        // A client that looks at names has its own ones on the server, and may use one twice.
        if self.names_are_the_poolers && name.starts_with(b"pk_") {
            // With an empty text it is there to be refused: the client has used a name of its own twice.
            let twice = self.prepared.contains(&name) && !sql.is_empty();
            assert!(!twice || self.doubtful.contains(&name), "prepared twice");
        }
        if name.is_empty() {
            self.prepared.remove(&name);
        }
        if self.luck.below(8) == 0 || self.prepared.contains(&name) {
            self.doubtful.insert(name);
            return self.fail_batch();
        }
        self.prepared.insert(name);
        self.say(b'1', b"");
    }

    fn bind(&mut self, body: &[u8]) {
        let mut body = Reader::new(body);
        let _portal = body.cstr();
        let name = body.cstr().unwrap_or_default();
        if self.missing(name) || self.luck.below(12) == 0 {
            return self.fail_batch();
        }
        self.say(b'2', b"");
    }

    fn describe(&mut self, body: &[u8]) {
        match body.split_first() {
            Some((b'S', name)) => {
                if self.missing(name.strip_suffix(b"\0").unwrap_or(name)) {
                    return self.fail_batch();
                }
                self.say(b't', b"\0\0");
            }
            Some(_) if self.luck.below(8) > 0 => {}
            _ => return self.fail_batch(),
        }
        if self.luck.below(2) == 0 { self.say(b'n', b"") } else { self.say(b'T', b"\0\0") }
    }

    fn missing(&self, name: &[u8]) -> bool {
        let missing = !self.prepared.contains(name);
        // A client may well use one of its own that begins alike.
        let poolers = name.starts_with(b"pk_") && name.len() >= 3 + 32;
        let must = self.names_are_the_poolers && poolers && !self.doubtful.contains(name);
        assert!(!(missing && must), "used and not prepared");
        missing
    }

    fn execute(&mut self, body: &[u8]) {
        // A portal of the pooler's own has the name of its statement.
        match self.asides.get(Reader::new(body).cstr().unwrap_or_default()).cloned() {
            Some(sql) => assert!(self.own(&sql), "not the pooler's own"),
            None => drop(self.statement(Copy::Execute)),
        }
    }

    /// What a statement does; false if nothing follows it.
    fn statement(&mut self, by: Copy) -> bool {
        match self.luck.below(12) {
            0 => {
                if by == Copy::Query {
                    self.fail()
                } else {
                    self.fail_batch()
                }
                return false;
            }
            1 => {
                self.say(b'G', b"\0\0\0");
                self.copy = by;
                return false;
            }
            2 => {
                self.say(b'H', b"\0\0\0");
                self.say(b'd', b"row\n");
                self.say(b'c', b"");
                self.say(b'C', b"COPY 1\0");
            }
            3 => self.say(b'I', b""),
            4 if by == Copy::Execute => {
                self.say(b'D', b"\0\0");
                self.say(b's', b"");
            }
            5 => self.transaction(),
            6 => self.say(b'C', b"UPDATE 1\0"),
            _ => {
                if by == Copy::Query {
                    self.say(b'T', b"\0\0");
                }
                for _ in 0..self.luck.below(3) {
                    self.say(b'D', b"\0\0");
                }
                self.say(b'C', b"SELECT 1\0");
            }
        }
        true
    }

    fn transaction(&mut self) {
        if self.status == b'I' {
            self.status = b'T';
            self.say(b'C', b"BEGIN\0");
        } else {
            self.status = b'I';
            self.say(b'C', b"COMMIT\0");
        }
    }

    /// A message while the client sends the data of a COPY.
    fn copy_data(&mut self, tag: u8) {
        let bad_row = tag == b'd' && self.luck.below(6) == 0;
        match tag {
            b'd' if !bad_row => return,
            b'H' | b'S' => return,
            b'c' => {
                self.say(b'C', b"COPY 1\0");
                if std::mem::replace(&mut self.copy, Copy::No) == Copy::Query {
                    self.ready();
                }
                return;
            }
            b'd' | b'f' => {}
            // It has lost its place in the stream, as it sees it (`pq_is_reading_msg` in PostgresMain).
            _ => {
                self.fail();
                self.fail();
                self.dead = true;
                return;
            }
        }
        if std::mem::replace(&mut self.copy, Copy::No) == Copy::Query {
            self.fail();
            self.ready();
        } else {
            self.fail_batch();
        }
    }

    fn fail(&mut self) {
        let mut out = Vec::new();
        message::error_response(&mut out, Severity::Error, &SqlState::PROTOCOL_VIOLATION, "bad luck", None, None);
        self.output.extend(out);
        if self.status == b'T' {
            self.status = b'E';
        }
    }

    fn fail_batch(&mut self) {
        self.fail();
        self.skips = true;
    }

    fn ready(&mut self) {
        if self.status == b'E' && self.luck.below(2) == 0 {
            self.status = b'I';
        }
        let status = self.status;
        self.say(b'Z', &[status]);
    }

    /// One message, after one that nobody asked for now and then.
    fn say(&mut self, tag: u8, body: &[u8]) {
        let mut out = Vec::new();
        if self.luck.below(16) == 0 {
            message::frame(&mut out, b'N', |out| out.extend(b"SNOTICE\0\0"));
        }
        message::frame(&mut out, tag, |out| out.extend(body));
        self.output.extend(out);
    }
}
