//! The rules that keep clients apart, by name, so that a test can switch each one off and see that the isolation stress
//! notices. In a build without the feature `switches` every rule holds and nothing here costs anything.

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A session whose last client may have left anything is scrubbed before another client has it.
    ScrubUnknown,
    /// A session with one client's settings is scrubbed before a client with others has it.
    ScrubOtherLabel,
    /// A use is harmless only in a quiet database.
    QuietDatabase,
    /// A use is harmless only if no text has a listed word and every command tag is on the list: what one net lets through,
    /// the other catches, so they are switched together.
    Listed,
    /// Nothing behind the first batch is sent before a preface is confirmed, and a failed preface ends the use.
    PrefaceGate,
    /// A client's settings are set on every server that it gets.
    Adapt,
    /// A client keeps its server while bound state is found on it.
    Bound,
    /// What no scrub cures closes the server.
    Incurable,
    /// Statements are shared only under the settings that parsing depends on.
    StatementLabel,
    /// Sequence values of others are forgotten before a client asks for the last one.
    Sequences,
    /// SQL-prepared statements of others are deallocated before a client names one.
    SqlPrepared,
    /// A server is not lent while a cancel request for it is under way.
    Cancels,
    /// A client that reads settings by name gets no server on which others have set custom ones.
    Traces,
    /// What a server says to itself during a scrub is told nobody.
    SwallowPreface,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 14] = [
        Self::ScrubUnknown,
        Self::ScrubOtherLabel,
        Self::QuietDatabase,
        Self::Listed,
        Self::PrefaceGate,
        Self::Adapt,
        Self::Bound,
        Self::Incurable,
        Self::StatementLabel,
        Self::Sequences,
        Self::SqlPrepared,
        Self::Cancels,
        Self::Traces,
        Self::SwallowPreface,
    ];

    /// Its name for `POOLKEEPER_SWITCH_OFF`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScrubUnknown => "scrub-unknown",
            Self::ScrubOtherLabel => "scrub-other-label",
            Self::QuietDatabase => "quiet-database",
            Self::Listed => "listed",
            Self::PrefaceGate => "preface-gate",
            Self::Adapt => "adapt",
            Self::Bound => "bound",
            Self::Incurable => "incurable",
            Self::StatementLabel => "statement-label",
            Self::Sequences => "sequences",
            Self::SqlPrepared => "sql-prepared",
            Self::Cancels => "cancels",
            Self::Traces => "traces",
            Self::SwallowPreface => "swallow-preface",
        }
    }
}

/// Whether a rule is switched off: never, but in a build for the mutation check.
#[cfg(not(feature = "switches"))]
#[inline(always)]
pub fn off(_: Rule) -> bool {
    false
}

/// Whether a rule is switched off by `POOLKEEPER_SWITCH_OFF`.
#[cfg(feature = "switches")]
pub fn off(rule: Rule) -> bool {
    static OFF: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("POOLKEEPER_SWITCH_OFF").ok());
    OFF.as_deref() == Some(rule.name())
}
