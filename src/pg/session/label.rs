//! What one client's session is to look like beside what it started with.

use std::cmp::Reverse;
use std::ops::Deref;
use std::sync::Arc;

/// Most settings of one label, and most bytes of names and values together; above, the client keeps its server.
pub const MOST_SETTINGS: usize = 64;
/// Most bytes of names and values together.
pub const MOST_BYTES: usize = 64 * 1024;

/// A setting's name and value, in whatever encoding the client has.
pub type Setting = (Box<[u8]>, Box<[u8]>);

/// A client's own settings by name, with the values as the server gave them. A label is compared whole and never changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Label {
    /// In the order in which they are set: the encoding of the others first, the role last.
    settings: Vec<Setting>,
    /// Those of them that parsing may depend on, in one piece.
    parse: Vec<u8>,
}

/// Settings that parsing and planning do not depend on; whatever is not known here may matter.
const NO_MATTER_TO_PARSER: [&[u8]; 14] = [
    b"application_name",
    b"statement_timeout",
    b"lock_timeout",
    b"idle_in_transaction_session_timeout",
    b"idle_session_timeout",
    b"transaction_timeout",
    b"client_min_messages",
    b"work_mem",
    b"maintenance_work_mem",
    b"synchronous_commit",
    b"default_transaction_isolation",
    b"default_transaction_read_only",
    b"default_transaction_deferrable",
    b"log_statement",
];

/// Whether a statement may mean something else, or be planned otherwise, under another value of this setting.
pub fn matters_to_parser(name: &[u8]) -> bool {
    let custom = name.contains(&b'.') && !name.starts_with(b"plpgsql.");
    !custom && !NO_MATTER_TO_PARSER.contains(&name)
}

impl Label {
    /// With these settings, in any order; a name must not come twice.
    pub fn new(mut settings: Vec<Setting>) -> Self {
        let place = |name: &[u8]| match name {
            b"client_encoding" => 3,
            b"session_authorization" => 1,
            // SET SESSION AUTHORIZATION clears it.
            b"role" => 0,
            _ => 2,
        };
        settings.sort_by(|(a, _), (b, _)| (Reverse(place(a)), a).cmp(&(Reverse(place(b)), b)));
        let mut parse = Vec::new();
        for (name, value) in settings.iter().filter(|(name, _)| matters_to_parser(name)) {
            parse.extend_from_slice(name);
            parse.push(0);
            parse.extend_from_slice(value);
            parse.push(0);
        }
        Self { settings, parse }
    }

    /// Nothing but what the session started with.
    pub fn is_plain(&self) -> bool {
        self.settings.is_empty()
    }

    /// Names and values in the order in which they are to be set.
    pub fn settings(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.settings.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of one setting.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.settings().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// What statements prepared under this label have in common with those of another, and may be shared under.
    pub fn parse_key(&self) -> &[u8] {
        &self.parse
    }

    /// Whether it is within its bounds.
    pub fn is_small(&self) -> bool {
        self.settings.len() <= MOST_SETTINGS
            && self.settings().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= MOST_BYTES
    }
}

/// A label as a client and its servers have it. The plain one lies nowhere: nearly all are, and neither copying nor
/// comparing it touches memory that others use.
#[derive(Debug, Clone, Default)]
pub struct Carried(Option<Arc<Label>>);

impl From<Label> for Carried {
    fn from(label: Label) -> Self {
        Self((!label.is_plain()).then(|| Arc::new(label)))
    }
}

impl Deref for Carried {
    type Target = Label;

    fn deref(&self) -> &Label {
        static PLAIN: Label = Label { settings: Vec::new(), parse: Vec::new() };
        self.0.as_deref().unwrap_or(&PLAIN)
    }
}

impl PartialEq for Carried {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(label), Some(other)) => Arc::ptr_eq(label, other) || label == other,
            // A plain one is never in memory.
            _ => false,
        }
    }
}

impl Eq for Carried {}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(settings: &[(&str, &str)]) -> Label {
        Label::new(settings.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect())
    }

    #[test]
    fn the_encoding_comes_first_and_the_role_last() {
        let label =
            label(&[("role", "a"), ("app.x", "1"), ("session_authorization", "b"), ("client_encoding", "latin1")]);
        let names: Vec<_> = label.settings().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["client_encoding", "app.x", "session_authorization", "role"]);
    }

    #[test]
    fn statements_are_shared_by_what_parsing_depends_on() {
        assert_eq!(label(&[("app.tenant", "1")]).parse_key(), label(&[("app.tenant", "2")]).parse_key());
        assert!(label(&[("app.tenant", "1"), ("statement_timeout", "5s")]).parse_key().is_empty());
        assert_ne!(label(&[("timezone", "utc")]).parse_key(), label(&[("timezone", "cet")]).parse_key());
        assert_ne!(label(&[("role", "a")]).parse_key(), label(&[]).parse_key());
        assert!(!label(&[("plpgsql.variable_conflict", "x")]).parse_key().is_empty());
    }

    #[test]
    fn the_same_settings_are_the_same_label_in_any_order() {
        assert_eq!(label(&[("a", "1"), ("b", "2")]), label(&[("b", "2"), ("a", "1")]));
        assert!(label(&[]).is_plain());
        assert_eq!(label(&[("a", "1")]).get(b"a"), Some(&b"1"[..]));
    }

    #[test]
    fn a_carried_label_is_compared_by_its_settings() {
        let carried = |settings: &[(&str, &str)]| Carried::from(label(settings));
        assert_eq!(carried(&[]), Carried::default());
        assert_eq!(carried(&[("a", "1")]), carried(&[("a", "1")]));
        assert_ne!(carried(&[("a", "1")]), carried(&[("a", "2")]));
        assert_ne!(carried(&[("a", "1")]), Carried::default());
        assert!(carried(&[]).is_plain() && carried(&[]).settings().next().is_none());
    }

    #[test]
    fn a_label_is_bounded() {
        assert!(label(&[("a", "1")]).is_small());
        assert!(!label(&[("a", &"x".repeat(MOST_BYTES))]).is_small());
    }
}
