//! Checked settings of a pool.

use std::fmt;
use std::time::Duration;

/// The longest duration any setting takes: ten years. It keeps every sum with a point in time in range.
pub const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The largest number any setting takes. Far above any database's limit; it bounds the pool's memory.
pub const MAX_CONNECTIONS: u32 = 100_000;

/// Which idle connection is lent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The one given back longest ago: all are used evenly (SQLAlchemy's default).
    #[default]
    Fifo,
    /// The one given back last: surplus goes idle and can be closed (SQLAlchemy's `use_lifo`).
    Lifo,
}

/// What a [`Config`] is made from: plain numbers, not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Connections kept when given back; 0 = no limit at all (SQLAlchemy's meaning), then `max_overflow` is ignored.
    pub size: u32,
    /// Connections opened above `size` while needed and closed when given back; `None` = no limit.
    pub max_overflow: Option<u32>,
    /// Nothing is ever opened above this, whatever the two above say; `None` = no cap.
    pub cap: Option<u32>,
    /// How long a request waits for a connection; zero = not at all. Connecting is not part of it.
    pub acquire: Duration,
    /// A connection older than this is replaced when it is checked out next; `None` = never.
    pub recycle: Option<Duration>,
    /// Each connection's `recycle` is shortened by a random share of up to this many percent (0 ..= 100).
    pub recycle_jitter_percent: u8,
    /// Whether a connection is asked for a sign of life before it is lent.
    pub pre_ping: bool,
    /// A connection heard from more recently than this is not pinged; zero = always ping, as SQLAlchemy does.
    pub ping_after: Duration,
    /// Which idle connection is lent next.
    pub order: Order,
    /// Idle connections kept open ahead of need, as long as `size` is not exceeded; at most `size`.
    pub min_idle: u32,
    /// An idle connection above `min_idle` is closed after this long; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// After a shrink, how long until clients idle in a transaction may be asked to go; `None` = never asked.
    pub shrink: Option<Duration>,
    /// Requests that may wait in line; one more is refused at once. 0 = no bound.
    pub max_waiting: u32,
}

impl Default for Settings {
    /// The preset Production.
    fn default() -> Self {
        Self {
            size: 20,
            max_overflow: Some(10),
            cap: None,
            acquire: Duration::from_secs(30),
            recycle: Some(Duration::from_secs(3600)),
            recycle_jitter_percent: 0,
            pre_ping: true,
            ping_after: Duration::from_millis(500),
            order: Order::Fifo,
            min_idle: 0,
            idle_timeout: None,
            shrink: None,
            max_waiting: 0,
        }
    }
}

/// Why settings were refused: which field, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The field of [`Settings`].
    pub field: &'static str,
    /// The value given and the way out.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Settings that were checked. There is no other way to one than [`Config::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    settings: Settings,
}

impl Config {
    /// Checks `settings`.
    ///
    /// # Errors
    /// Every rule that is broken, not only the first.
    pub fn new(settings: Settings) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        check_numbers(&settings, &mut errors);
        check_durations(&settings, &mut errors);
        if errors.is_empty() { Ok(Self { settings }) } else { Err(errors) }
    }

    /// The values.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How long a request waits for a connection.
    pub fn acquire(&self) -> Duration {
        self.settings.acquire
    }

    /// The most connections that may be open, opening or closing at once; `None` = no limit.
    pub fn limit(&self) -> Option<u32> {
        let ceiling = match (self.settings.size, self.settings.max_overflow) {
            (0, _) | (_, None) => None,
            (size, Some(overflow)) => Some(size.saturating_add(overflow)),
        };
        match (ceiling, self.settings.cap) {
            (Some(ceiling), Some(cap)) => Some(ceiling.min(cap)),
            (ceiling, cap) => ceiling.or(cap),
        }
    }

    /// How many records are kept when given back; `None` = all.
    pub fn kept(&self) -> Option<u32> {
        (self.settings.size > 0).then_some(self.settings.size)
    }
}

fn check_numbers(settings: &Settings, errors: &mut Vec<ConfigError>) {
    let mut at_most = |field, value: u32, most: u32| {
        if value > most {
            errors.push(ConfigError { field, message: format!("{value} is too large, at most {most}") });
        }
    };
    at_most("size", settings.size, MAX_CONNECTIONS);
    at_most("max_overflow", settings.max_overflow.unwrap_or(0), MAX_CONNECTIONS);
    at_most("cap", settings.cap.unwrap_or(0), MAX_CONNECTIONS);
    at_most("recycle_jitter_percent", settings.recycle_jitter_percent.into(), 100);
    if settings.size > 0 && settings.min_idle > settings.size {
        errors.push(ConfigError {
            field: "min_idle",
            message: format!("{} is more than size {}; lower it or raise size", settings.min_idle, settings.size),
        });
    } else {
        at_most("min_idle", settings.min_idle, MAX_CONNECTIONS);
    }
}

fn check_durations(settings: &Settings, errors: &mut Vec<ConfigError>) {
    let durations = [
        ("acquire", Some(settings.acquire), true),
        ("recycle", settings.recycle, true),
        ("ping_after", Some(settings.ping_after), true),
        ("idle_timeout", settings.idle_timeout, false),
        ("shrink", settings.shrink, true),
    ];
    for (field, value, zero) in durations {
        let Some(value) = value else { continue };
        if value > MAX_DURATION {
            errors.push(ConfigError { field, message: format!("{value:?} is too long, at most ten years") });
        }
        if value.is_zero() && !zero {
            errors.push(ConfigError { field, message: "must be longer than zero".to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limit(size: u32, max_overflow: Option<u32>, cap: Option<u32>) -> Option<u32> {
        Config::new(Settings { size, max_overflow, cap, ..Settings::default() }).unwrap().limit()
    }

    #[test]
    fn the_limit_is_size_and_overflow_under_the_cap() {
        assert_eq!(limit(20, Some(10), None), Some(30));
        assert_eq!(limit(20, Some(10), Some(12)), Some(12));
        assert_eq!(limit(20, Some(10), Some(99)), Some(30));
        assert_eq!(limit(20, None, None), None);
        assert_eq!(limit(20, None, Some(7)), Some(7));
        assert_eq!(limit(0, Some(10), None), None, "size 0 is unlimited whatever max_overflow says");
        assert_eq!(limit(0, Some(10), Some(3)), Some(3));
        assert_eq!(limit(5, Some(0), Some(0)), Some(0), "a budget may take everything away");
    }

    #[test]
    fn size_zero_keeps_all() {
        let kept = |size| Config::new(Settings { size, ..Settings::default() }).unwrap().kept();
        assert_eq!(kept(0), None);
        assert_eq!(kept(1), Some(1));
    }

    #[test]
    fn every_error_is_reported() {
        let errors = Config::new(Settings {
            size: 1,
            min_idle: 2,
            recycle_jitter_percent: 101,
            idle_timeout: Some(Duration::ZERO),
            acquire: MAX_DURATION + Duration::from_nanos(1),
            ..Settings::default()
        })
        .unwrap_err();
        let fields: Vec<_> = errors.iter().map(|e| e.field).collect();
        assert_eq!(fields, ["recycle_jitter_percent", "min_idle", "acquire", "idle_timeout"]);
        assert_eq!(errors[1].to_string(), "min_idle: 2 is more than size 1; lower it or raise size");
    }

    #[test]
    fn the_bounds_themselves_are_allowed() {
        assert_eq!(MAX_DURATION.as_secs(), 315_360_000);
        let most = Settings {
            size: MAX_CONNECTIONS,
            max_overflow: Some(MAX_CONNECTIONS),
            cap: Some(MAX_CONNECTIONS),
            min_idle: MAX_CONNECTIONS,
            recycle_jitter_percent: 100,
            acquire: MAX_DURATION,
            ..Settings::default()
        };
        assert!(Config::new(most.clone()).is_ok());
        let over = |change: fn(&mut Settings)| {
            let mut settings = most.clone();
            change(&mut settings);
            Config::new(settings).unwrap_err()[0].field
        };
        assert_eq!(over(|s| s.size += 1), "size");
        assert_eq!(over(|s| s.max_overflow = Some(MAX_CONNECTIONS + 1)), "max_overflow");
        assert_eq!(over(|s| s.cap = Some(MAX_CONNECTIONS + 1)), "cap");
        let none = Settings { size: 0, min_idle: MAX_CONNECTIONS + 1, ..Settings::default() };
        assert_eq!(Config::new(none).unwrap_err()[0].field, "min_idle");
        assert!(Config::new(Settings { size: 0, min_idle: 5, ..Settings::default() }).is_ok());
    }
}
