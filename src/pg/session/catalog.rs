//! Whether a database is *quiet*: nothing defined in it can change a session behind an ordinary statement's back.
//!
//! State can be set without a word in the client's text: by a function, an operator, a default, a trigger, a view. So
//! the catalog is asked ([`question`]) and what comes back is judged row by row ([`Judge`]). What is doubtful is noisy:
//! that costs a scrub at every change of client, whereas a false "quiet" would show one client's state to another.
//!
//! The one thing not looked at is what a superuser can do to PostgreSQL's own rows in `pg_catalog`.

pub mod body;
pub mod question;
mod tag;

use std::fmt::Write as _;

pub use tag::{brings_code, defines};

/// Names that a verdict keeps.
pub const NAMES: usize = 20;
/// Characters of a name that are kept.
const LENGTH: usize = 200;

/// What is known of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It was not read yet, or cannot be.
    #[default]
    Unknown,
    /// Nothing in it can touch a session.
    Quiet,
    /// Something can, or may.
    Noisy {
        /// What, each with the reason: at most [`NAMES`], of printable characters, each at most a line long.
        names: Vec<String>,
        /// How many there are beside those.
        more: usize,
        /// A trigger runs at every login (PostgreSQL 17): no scrub brings back what it set.
        login_trigger: bool,
    },
}

impl Verdict {
    /// The name in `/status`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Quiet => "quiet",
            Self::Noisy { .. } => "noisy",
        }
    }
}

/// One row of the answers: what it is about, its name, and what there is to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Which of the questions, see [`question`].
    pub kind: &'a [u8],
    /// The object's name, with its schema.
    pub name: &'a [u8],
    /// A body, a setting, a language, an extension, or the touching function that was found.
    pub detail: &'a [u8],
}

/// What a scrub must do in a database, and what it can't.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cure {
    /// A routine can do to a session what no scrub undoes, or `postgres_fdw` keeps connections that nothing ends.
    pub incurable: bool,
    /// A routine can prepare statements by SQL.
    pub prepares: bool,
    /// The statement that ends the connections that `postgres_fdw` keeps, where that extension is.
    pub disconnect: Option<Box<str>>,
}

/// Judges rows as they come; keeps at most [`NAMES`] names of them.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    cure: Cure,
    /// `postgres_fdw` may keep connections.
    far: bool,
    names: Vec<String>,
    more: usize,
    login_trigger: bool,
}

/// Judges all rows.
pub fn judge<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> Verdict {
    let mut judge = Judge::default();
    for row in rows {
        judge.hear(row);
    }
    judge.verdict()
}

impl Judge {
    /// What a scrub must do, as far as the rows show.
    pub fn cure(&self) -> Cure {
        let mut cure = self.cure.clone();
        cure.incurable |= self.far && cure.disconnect.is_none();
        cure
    }

    /// Looks at one row.
    pub fn hear(&mut self, row: Row<'_>) {
        let text = row.detail.to_ascii_lowercase();
        let has = |word: &[u8]| memchr::memmem::find(&text, word).is_some();
        // In a body, or as what another object calls. Nothing but the end of the session undoes it.
        self.cure.incurable |= has(b"setseed") || has(b"dblink_connect") || has(b"set seed") || has(b"'seed'");
        match row.kind {
            b"body" => {
                self.cure.prepares |= has(b"prepare") || has(b"execute");
                if let Some(reason) = body::reason(row.detail) {
                    self.accuse("function", row.name, reason.as_bytes());
                }
            }
            b"setting" => {
                self.cure.incurable |= text.starts_with(b"seed=");
                if setting_touches(row.detail) {
                    self.accuse("function", row.name, &[b"SET ", row.detail].concat());
                }
            }
            b"extension" => {
                if !is_known_extension(row.name) {
                    self.accuse("extension", row.name, b"C functions that are not known");
                }
            }
            b"compiled" => {
                // One of PostgreSQL's own under another name, which may be any of those that touch the session.
                self.cure.incurable |= row.detail == b"internal";
                self.accuse("function", row.name, &[b"language ", row.detail].concat());
            }
            b"language" => self.accuse("function", row.name, &[b"language ", row.detail].concat()),
            b"long" => {
                self.cure.incurable = true;
                self.accuse("function", row.name, b"too long to be read");
            }
            b"disconnect" => {
                // Another alphabet may read otherwise in a client's encoding: closing such servers is always right.
                let name = std::str::from_utf8(row.name).ok().filter(|name| name.is_ascii());
                self.cure.disconnect = name.map(|name| format!("SELECT {name}").into());
            }
            b"far server" => self.far = true,
            b"login trigger" => {
                self.login_trigger = true;
                self.accuse("login trigger", row.name, row.detail);
            }
            // Whatever else was selected is there because it touches the session.
            kind => self.accuse(&String::from_utf8_lossy(kind), row.name, row.detail),
        }
    }

    /// There was more than is read of one kind.
    pub fn too_many(&mut self) {
        self.cure.incurable = true;
        self.accuse("catalog", b"", b"too large to be read");
    }

    /// The verdict on all rows heard.
    pub fn verdict(self) -> Verdict {
        let Self { names, more, login_trigger, .. } = self;
        if names.is_empty() { Verdict::Quiet } else { Verdict::Noisy { names, more, login_trigger } }
    }

    fn accuse(&mut self, kind: &str, name: &[u8], reason: &[u8]) {
        if self.names.len() >= NAMES {
            self.more = self.more.saturating_add(1);
            return;
        }
        let mut line = String::from(kind);
        if !name.is_empty() {
            line.push(' ');
            print(&mut line, name);
        }
        if !reason.is_empty() {
            line.push_str(": ");
            print(&mut line, reason);
        }
        self.names.push(line);
    }
}

/// Appends what can be shown anywhere in one line.
fn print(line: &mut String, bytes: &[u8]) {
    for (n, c) in String::from_utf8_lossy(bytes).chars().enumerate() {
        if n == LENGTH {
            line.push('…');
            return;
        }
        // Controls, and what turns the direction of a line.
        if c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            // Writing into a String cannot fail.
            let _ = write!(line, "{}", c.escape_unicode());
        } else {
            line.push(c);
        }
    }
}

/// Whether a setting that holds while a function runs (`CREATE FUNCTION … SET`) leaves something behind.
fn setting_touches(entry: &[u8]) -> bool {
    let entry = entry.to_ascii_lowercase();
    let (name, value) = match memchr::memchr(b'=', &entry) {
        Some(at) => (&entry[..at], &entry[at + 1..]),
        None => (&entry[..], &[][..]),
    };
    match name {
        // Where the first schema can't be used, tables are made in the temporary one, and stay.
        b"search_path" => contains(value, b"pg_temp") && !begins_with_pg_catalog(value),
        // Plans made meanwhile carry these, and are used later without.
        b"timezone" | b"datestyle" | b"intervalstyle" => true,
        // A custom setting once touched reads '' instead of being unknown.
        _ => name.contains(&b'.') || contains(value, b"pg_temp"),
    }
}

fn begins_with_pg_catalog(path: &[u8]) -> bool {
    let first = path.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
    matches!(first, b"pg_catalog" | b"\"pg_catalog\"")
}

/// Extensions whose C functions leave nothing in the session that a client could meet. `pg_trgm`'s `set_limit` does, and
/// is looked for by name. Not here on purpose: `isn` (`isn_weak` sets a flag), `dblink` (named connections), `tablefunc`
/// and `xml2` (run SQL from text).
const EXTENSIONS: [&str; 45] = [
    "adminpack",
    "amcheck",
    "autoinc",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "file_fdw",
    "fuzzystrmatch",
    "hstore",
    "insert_username",
    "intagg",
    "intarray",
    "lo",
    "ltree",
    "moddatetime",
    "old_snapshot",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_logicalinspect",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_surgery",
    "pg_trgm",
    "pg_visibility",
    "pg_walinspect",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    // Functions in these languages are noisy, but not the languages.
    "plperl",
    "plpgsql",
    "plpython3u",
    "pltcl",
    // Foreign tables are noisy, but not the means to have some.
    "postgres_fdw",
    "seg",
    "sslinfo",
    "tcn",
    "unaccent",
    "uuid-ossp",
    "vector",
];

fn is_known_extension(name: &[u8]) -> bool {
    EXTENSIONS.iter().any(|known| known.as_bytes() == name)
        || matches!(name, b"plperlu" | b"pltclu" | b"tsm_system_rows" | b"tsm_system_time")
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

#[cfg(test)]
mod tests;
