//! What can be said of a text: why it binds a client, what to ask after it.

/// Why a client keeps its server beyond the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pin {
    /// SET, set_config(), SET ROLE, SET SESSION AUTHORIZATION.
    Setting = 0,
    /// LISTEN.
    Listen = 1,
    /// A temporary table, view, function or type.
    Temporary = 2,
    /// A session-level advisory lock.
    AdvisoryLock = 3,
    /// PREPARE in SQL, or protocol-level statements where the policy keeps none.
    Prepared = 4,
    /// A cursor WITH HOLD.
    Cursor = 5,
    /// Code that may do any of these: DO, CALL, LOAD, a FunctionCall message, SQL run from text.
    Code = 6,
    /// A parameter changed without a word in the text.
    Unexplained = 7,
}

impl Pin {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Setting,
        Self::Listen,
        Self::Temporary,
        Self::AdvisoryLock,
        Self::Prepared,
        Self::Cursor,
        Self::Code,
        Self::Unexplained,
    ];

    /// The name in metrics and `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::Listen => "listen",
            Self::Temporary => "temporary",
            Self::AdvisoryLock => "advisory_lock",
            Self::Prepared => "prepared",
            Self::Cursor => "cursor",
            Self::Code => "code",
            Self::Unexplained => "unexplained",
        }
    }

    /// Whether ROLLBACK and DISCARD ALL undo everything of this kind; if not, the server is closed after its client.
    pub fn is_discardable(self) -> bool {
        self != Self::Code
    }
}

/// What is to be asked of the session after a transaction: a set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asks(u8);

impl Asks {
    /// Settings whose names are known.
    pub const SETTINGS: Self = Self(1);
    /// Channels.
    pub const LISTEN: Self = Self(2);
    /// Advisory locks.
    pub const LOCKS: Self = Self(4);
    /// Cursors WITH HOLD.
    pub const CURSORS: Self = Self(8);
    /// Statements prepared by SQL.
    pub const PREPARED: Self = Self(16);
    /// Temporary objects.
    pub const TEMPORARY: Self = Self(32);
    /// Settings by whatever name.
    pub const ALL_SETTINGS: Self = Self(64);
    /// Everything.
    pub const ALL: Self = Self(127);

    /// All of both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `other` is in it.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Nothing to ask.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What a text may do to the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scan {
    /// The client must keep its server from now on, and no audit frees it: what was done can't be asked about.
    pub pin: Option<Pin>,
    /// What it may have left behind.
    pub asks: Asks,
    /// What it may have ended, worth asking about for a client that is bound.
    pub frees: Asks,
    /// It has a word or a statement that is not on the list of harmless ones: the session is not proven afterwards.
    pub touches: bool,
    /// It is only BEGIN, COMMIT, ROLLBACK, SHOW, SELECT of constants: it proves itself in any database.
    pub constant: bool,
    /// It runs routines as a statement of their own (CALL): in a noisy database anything may have changed.
    pub calls: bool,
    /// It runs SQL that is put together: it may do what nobody can ask about, and no scrub undoes.
    pub hides: bool,
    /// It has a DO.
    pub does: bool,
    /// One whose text may define something, or do what no scrub undoes.
    pub does_more: bool,
    /// It has a SET statement whose effect ends with the transaction (SET LOCAL, SET TRANSACTION, SET CONSTRAINTS).
    pub sets: bool,
    /// It calls set_config(): literals and parameters may be names of settings.
    pub set_config: bool,
    /// It asks for this session's last sequence value, which only the server that drew it knows.
    pub sequence: bool,
    /// It names statements prepared by SQL (PREPARE, EXECUTE, DEALLOCATE, the catalog view).
    pub names_prepared: bool,
    /// It may name statements that the protocol prepared, or list them.
    pub shows_names: bool,
    /// It lists what is prepared, whoever did it.
    pub lists_names: bool,
    /// It changes what sessions begin with (ALTER DATABASE or ROLE … SET).
    pub defaults: bool,
    /// It prepares one by SQL.
    pub prepares: bool,
    /// It sets a custom setting (`app.x`), whose name the session knows from then on.
    pub customs: bool,
    /// It reads settings by name, and can tell a custom one that was never set from one that was.
    pub reads_settings: bool,
}

impl Scan {
    pub(super) fn pin(&mut self, pin: Pin) {
        self.pin.get_or_insert(pin);
        self.touches = true;
    }

    pub(super) fn ask(&mut self, asks: Asks) {
        self.asks = self.asks.and(asks);
        self.frees = self.frees.and(asks);
        self.touches = true;
    }
}

/// What a tag says: see [`tag`](super::tag).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tag {
    /// What may have been left behind.
    pub asks: Asks,
    /// The session is not proven afterwards.
    pub touches: bool,
}
