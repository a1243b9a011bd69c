//! Names of settings that a text may change, for the audit to ask about: candidates, found without parsing. One too many
//! costs nothing: PostgreSQL has no value for what is no setting.

/// Most candidates of one transaction; above, its client keeps the server.
pub const MOST: usize = 64;
/// Longest name that is asked about (NAMEDATALEN allows two parts of 63 bytes).
const LONGEST: usize = 128;

/// Settings that one transaction may have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// By SET or set_config().
    pub set: Vec<Box<[u8]>>,
    /// By RESET or SET … TO DEFAULT.
    pub reset: Vec<Box<[u8]>>,
    /// RESET ALL, DISCARD ALL: all there are.
    pub all: bool,
    /// There were more than can be asked about.
    pub too_many: bool,
    /// What the last of them does to `application_name`.
    pub name: Option<Named>,
}

/// What a text does to `application_name`, the one setting in which clients of one server may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// It sets it.
    Set,
    /// It leads back to what the session began with.
    Reset,
}

/// The setting of [`Touched::name`].
pub const NAME: &[u8] = b"application_name";

impl Touched {
    /// Nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.reset.is_empty() && !self.all && !self.too_many
    }

    /// Adds what follows SET and RESET wherever they stand, and, if `set_config` is called, every literal that could be
    /// the name of a setting.
    pub fn add_text(&mut self, text: &[u8], set_config: bool) {
        let text = memchr::memchr(0, text).map_or(text, |end| &text[..end]);
        let mut words = Words { rest: text };
        while let Some(word) = words.next() {
            let reset = word.eq_ignore_ascii_case(b"reset");
            if reset || word.eq_ignore_ascii_case(b"set") {
                let mut ahead = Words { rest: words.rest };
                self.setting(&mut ahead, reset);
            } else if word.eq_ignore_ascii_case(b"discard") {
                let mut ahead = Words { rest: words.rest };
                if ahead.next().is_some_and(|word| word.eq_ignore_ascii_case(b"all")) {
                    self.reset_all();
                }
            } else if set_config && word.first() == Some(&b'\'') {
                self.add_candidate(word[1..].strip_suffix(b"'").unwrap_or(&word[1..]));
            }
        }
    }

    /// Adds a value that may be the name of a setting, such as a parameter of `set_config($1, …)`.
    pub fn add_candidate(&mut self, value: &[u8]) {
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$') || *byte >= 0x80;
        let begins = value.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_' || *byte >= 0x80);
        if begins && value.iter().all(is_name) {
            self.add(&value.to_ascii_lowercase(), false);
        }
    }

    fn add(&mut self, name: &[u8], reset: bool) {
        if name.len() > LONGEST || is_of_the_transaction(name) {
            return;
        }
        if name == NAME {
            self.name = Some(if reset { Named::Reset } else { Named::Set });
        }
        let list = if reset { &mut self.reset } else { &mut self.set };
        if list.iter().any(|known| **known == *name) {
            return;
        }
        if list.len() == MOST {
            self.too_many = true;
        } else {
            list.push(name.into());
        }
    }

    fn reset_all(&mut self) {
        self.all = true;
        self.name = Some(Named::Reset);
    }

    /// What stands after SET or RESET.
    fn setting(&mut self, words: &mut Words<'_>, reset: bool) {
        let Some(mut word) = words.next().map(lower) else { return };
        if matches!(&*word, b"local" | b"session") {
            let rest = words.rest;
            let Some(next) = words.next().map(lower) else { return };
            match (&*word, &*next) {
                (b"session", b"authorization") => {
                    self.add(b"session_authorization", reset);
                    return self.add(b"role", reset);
                }
                (b"session", b"characteristics") => {
                    for kind in ["isolation", "read_only", "deferrable"] {
                        self.add(format!("default_transaction_{kind}").as_bytes(), reset);
                    }
                    return;
                }
                _ => {}
            }
            words.rest = rest;
            word = words.next().map(lower).unwrap_or_default();
        }
        match &*word {
            b"all" if reset => self.reset_all(),
            b"transaction" | b"constraints" => {}
            b"time" => self.add(b"timezone", reset),
            b"names" => self.add(b"client_encoding", reset),
            b"schema" => self.add(b"search_path", reset),
            b"xml" => self.add(b"xmloption", reset),
            _ => {
                let name = self.dotted(word, words);
                let is = |next: &[u8]| next.eq_ignore_ascii_case(b"default");
                let mut value = Words { rest: words.rest };
                let first = value.next();
                let to = first.filter(|word| word.eq_ignore_ascii_case(b"to") || *word == b"=");
                let default = to.is_some() && value.next().is_some_and(is);
                self.add(&name, reset || default);
            }
        }
    }

    fn dotted(&self, first: Vec<u8>, words: &mut Words<'_>) -> Vec<u8> {
        let mut name = first;
        loop {
            let mut ahead = Words { rest: words.rest };
            if ahead.next() != Some(b".") {
                return name;
            }
            let Some(part) = ahead.next() else { return name };
            name.push(b'.');
            name.extend(lower(part));
            words.rest = ahead.rest;
        }
    }
}

/// Settings that end with the transaction, whatever sets them, and those that nobody can set.
pub(super) fn is_of_the_transaction(name: &[u8]) -> bool {
    matches!(
        name,
        b"transaction_isolation"
            | b"transaction_read_only"
            | b"transaction_deferrable"
            | b"is_superuser"
            | b"in_hot_standby"
            | b"server_version"
            | b"server_encoding"
            | b"integer_datetimes"
    )
}

/// A name as PostgreSQL folds it: quotes off, lower case.
fn lower(word: &[u8]) -> Vec<u8> {
    let word = word.strip_prefix(b"\"").map_or(word, |word| word.strip_suffix(b"\"").unwrap_or(word));
    word.to_ascii_lowercase()
}

/// Words, quoted names, literals and single signs of a text; comments are passed over.
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = super::scan::words::after_space(self.rest);
        let first = *text.first()?;
        let end = match first {
            b'\'' | b'"' => memchr::memchr(first, &text[1..]).map_or(text.len(), |end| end + 2),
            _ => text.iter().position(|byte| !super::scan::words::is_word(*byte)).unwrap_or(text.len()).max(1),
        };
        let (word, rest) = text.split_at(end);
        self.rest = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(text: &str, set_config: bool) -> (Vec<String>, Vec<String>, bool) {
        let mut touched = Touched::default();
        touched.add_text(text.as_bytes(), set_config);
        let names = |list: &[Box<[u8]>]| list.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        (names(&touched.set), names(&touched.reset), touched.all)
    }

    fn set(text: &str) -> Vec<String> {
        touched(text, false).0
    }

    #[test]
    fn every_way_to_set_is_known() {
        assert_eq!(set("SET work_mem = '1MB'"), ["work_mem"]);
        assert_eq!(set("set session work_mem to 5"), ["work_mem"]);
        assert_eq!(set("/* a */ set local \"App\".Tenant = 'x'"), ["app.tenant"]);
        assert_eq!(set("set app . x = 1; set b = 2"), ["app.x", "b"]);
        assert_eq!(set("SET TIME ZONE 'UTC'"), ["timezone"]);
        assert_eq!(set("SET SESSION TIME ZONE 'UTC'"), ["timezone"]);
        assert_eq!(set("set names 'latin1'"), ["client_encoding"]);
        assert_eq!(set("set schema 'a'"), ["search_path"]);
        assert_eq!(set("set role x"), ["role"]);
        assert_eq!(set("set session role x"), ["role"]);
        assert_eq!(set("set session authorization x"), ["session_authorization", "role"]);
        assert_eq!(set("set session characteristics as transaction read only").len(), 3);
        assert_eq!(set("set transaction isolation level serializable"), Vec::<String>::new());
        assert_eq!(set("do $$ begin set a.b = 1; end $$"), ["a.b"]);
    }

    #[test]
    fn resets_are_told_apart() {
        assert_eq!(touched("reset work_mem", false).1, ["work_mem"]);
        assert_eq!(touched("set work_mem to default", false).1, ["work_mem"]);
        assert_eq!(touched("set work_mem = DEFAULT", false).1, ["work_mem"]);
        assert!(touched("reset all", false).2);
        assert!(touched("discard all", false).2);
        assert!(!touched("discard temp", false).2);
    }

    #[test]
    fn literals_of_set_config_are_candidates() {
        assert_eq!(touched("select set_config('App.x', 'no name!', false)", true).0, ["app.x"]);
        assert_eq!(touched("select set_config('a', 'b', false)", false).0, Vec::<String>::new());
        let mut touched = Touched::default();
        touched.add_candidate(b"app.tenant");
        touched.add_candidate(b"17");
        assert_eq!(touched.set.len(), 1);
    }

    #[test]
    fn candidates_are_bounded() {
        let mut touched = Touched::default();
        for n in 0..=MOST {
            assert!(!touched.too_many);
            touched.add_candidate(format!("a.b{n}").as_bytes());
        }
        assert!(touched.too_many && touched.set.len() == MOST);
    }
}
