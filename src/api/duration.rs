//! Durations as users write them (`30s`, `1h30m`, `250ms`), and the bounds of each field that has one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest text of a duration, in characters.
pub(super) const MAX_LEN: u32 = 16;

/// What a duration looks like; the API server checks the same expression.
pub(super) const PATTERN: &str = r"^(0|([0-9]+(\.[0-9]{1,3})?(h|m|s)|[0-9]+ms)+)$";

/// A Kubernetes duration string of whole milliseconds and no sign.
///
/// The grammar is Go's `time.ParseDuration` (what `metav1.Duration` uses) without sign, without units below
/// milliseconds and with at most three decimals. `kube::core::Duration` is not used: it panics on overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(StdDuration);

impl Duration {
    /// A duration of whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(StdDuration::from_millis(ms))
    }

    /// A duration of whole seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(StdDuration::from_secs(s))
    }

    /// The length as the standard library has it.
    pub const fn get(self) -> StdDuration {
        self.0
    }

    /// The length, or `None` for `0s`: what most fields call "never".
    pub fn nonzero(self) -> Option<StdDuration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no duration: write numbers with the units h, m, s or ms, as in 30s, 1h30m or 250ms (at most 16 characters)"
)]
pub struct DurationError;

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        if text == "0" {
            return Ok(Self::default());
        }
        if text.is_empty() || text.len() > MAX_LEN as usize {
            return Err(DurationError);
        }
        let mut rest = text;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (part, after) = component(rest).ok_or(DurationError)?;
            total = total.saturating_add(part);
            rest = after;
        }
        Ok(Self::from_millis(total))
    }
}

/// Takes one `number unit` off the front: its milliseconds (at most `u64::MAX`, far beyond any bound) and what follows.
fn component(text: &str) -> Option<(u64, &str)> {
    let (whole, rest) = digits(text)?;
    let whole: u64 = whole.parse().ok()?;
    let (thousandths, rest) = match rest.strip_prefix('.') {
        None => (None, rest),
        Some(rest) => {
            let (fraction, rest) = digits(rest)?;
            let scale = [100, 10, 1].get(fraction.len().checked_sub(1)?)?;
            (Some(fraction.parse::<u64>().ok()? * scale), rest)
        }
    };
    let (unit_ms, rest) = match (rest.strip_prefix("ms"), thousandths) {
        (Some(rest), None) => (1, rest),
        (Some(_), Some(_)) => return None,
        (None, _) => match rest.split_at_checked(1)? {
            ("h", rest) => (3_600_000, rest),
            ("m", rest) => (60_000, rest),
            ("s", rest) => (1_000, rest),
            _ => return None,
        },
    };
    // A thousandth of each unit that may have decimals is whole milliseconds.
    let ms = whole.saturating_mul(unit_ms).saturating_add(thousandths.unwrap_or(0) * (unit_ms / 1000));
    Some((ms, rest))
}

/// The decimal digits at the front (at least one) and what follows.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms == 0 {
            return f.write_str("0s");
        }
        let parts = [(ms / 3_600_000, "h"), (ms / 60_000 % 60, "m"), (ms / 1000 % 60, "s"), (ms % 1000, "ms")];
        parts.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": MAX_LEN, "pattern": PATTERN })
    }
}

/// Which durations a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `0s` is allowed, whatever `min` says.
    pub zero: bool,
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

const HOUR: u64 = 3600;

impl Bounds {
    /// `pool.recycle`, `pool.idleTimeout`, `listen.idleTimeout`: `0s` = never.
    pub const AGE: Self = Self { zero: true, min: Duration::from_secs(1), max: Duration::from_secs(8760 * HOUR) };
    /// `timeouts.acquire`: `0s` = fail at once, as SQLAlchemy's 0.
    pub const ACQUIRE: Self = Self { zero: true, min: Duration::from_millis(1), max: Duration::from_secs(HOUR) };
    /// `timeouts.connect`.
    pub const CONNECT: Self = Self { zero: false, min: Duration::from_millis(10), max: Duration::from_secs(600) };
    /// `timeouts.statement` and `idleInTransaction`: `0s` = none; PostgreSQL counts milliseconds in 31 bits.
    pub const SESSION: Self = Self { zero: true, min: Duration::from_millis(1), max: Duration::from_secs(596 * HOUR) };
    /// `timeouts.shrink`: `0s` = wait for check-in.
    pub const SHRINK: Self = Self { zero: true, min: Duration::from_millis(1), max: Duration::from_secs(24 * HOUR) };
    /// `health.interval` and `health.timeout`.
    pub const HEALTH: Self = Self { zero: false, min: Duration::from_millis(10), max: Duration::from_secs(HOUR) };
    /// `listen.loginTimeout`.
    pub const LOGIN: Self = Self { zero: false, min: Duration::from_millis(100), max: Duration::from_secs(600) };
    /// `listen.keepalive`: `0s` = off; Linux' TCP_KEEPIDLE ends at 32767 s.
    pub const KEEPALIVE: Self = Self { zero: true, min: Duration::from_secs(1), max: Duration::from_secs(9 * HOUR) };
    /// `shutdown.grace`: `0s` = no drain.
    pub const GRACE: Self = Self { zero: true, min: Duration::from_millis(1), max: Duration::from_secs(24 * HOUR) };

    /// Whether `value` is within them.
    pub fn allow(&self, value: Duration) -> bool {
        (self.zero && value == Duration::default()) || (self.min <= value && value <= self.max)
    }

    /// The same as a CEL rule of the field.
    pub fn rule(&self) -> Rule {
        let range = format!("duration(self) >= duration('{}') && duration(self) <= duration('{}')", self.min, self.max);
        let rule = if self.zero { format!("duration(self) == duration('0s') || ({range})") } else { range };
        // CEL forgets the error of one side of || when the other is true: what is no duration is refused once, by its pattern.
        Rule::new(format!("{rule} || {}", no_duration("self"))).message(format!("must be {self}").as_str())
    }
}

/// A CEL expression: `text` is no duration, which its pattern refuses.
pub(super) fn no_duration(text: &str) -> String {
    format!("!{text}.matches(r'{PATTERN}')")
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zero = if self.zero { "0s or " } else { "" };
        write!(f, "{zero}{} to {}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("0.001s", 1),
            ("1m0.25s", 60_250),
            ("2m2m", 240_000),
            ("008s", 8_000),
            ("999999999999999h", u64::MAX),
        ] {
            assert_eq!(text.parse::<Duration>().unwrap(), Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_without_panic() {
        for text in [
            "",
            "1",
            "s",
            "-1s",
            "+1s",
            "1 s",
            "1s ",
            " 1s",
            "1.s",
            ".5s",
            "1.2345s",
            "1.5ms",
            "5us",
            "5ns",
            "1d",
            "1H",
            "١s",
            "1µs",
            "9999999999999999h",
            "99999999999999999999h",
            "1.0.0s",
            "ms",
            "1mss",
            "0x1s",
            "1e3s",
        ] {
            assert_eq!(text.parse::<Duration>(), Err(DurationError), "{text}");
        }
    }

    #[test]
    fn pattern_and_parser_agree() {
        let pattern = regex_lite::Regex::new(PATTERN).unwrap();
        let alphabet = ["0", "1", "25", ".", "h", "m", "s", "ms", "-", " "];
        for n in 0..10_usize.pow(4) {
            let text: String = (0..4).map(|i| alphabet[n / 10_usize.pow(i) % 10]).collect();
            assert_eq!(pattern.is_match(&text), text.parse::<Duration>().is_ok(), "{text}");
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["0s", "1ms", "1s", "1m1s1ms", "8760h", "1h1ms", "8759h59m59s999ms"] {
            let value: Duration = text.parse().unwrap();
            assert_eq!(value.to_string(), text);
            assert!(text.len() <= MAX_LEN as usize);
        }
    }

    #[test]
    fn bounds_hold_at_their_edges() {
        let ms = Duration::from_millis;
        assert!(Bounds::AGE.allow(ms(0)) && Bounds::AGE.allow(ms(1000)) && !Bounds::AGE.allow(ms(999)));
        assert!(!Bounds::CONNECT.allow(ms(0)) && Bounds::CONNECT.allow(ms(10)) && !Bounds::CONNECT.allow(ms(9)));
        assert!(Bounds::CONNECT.allow(ms(600_000)) && !Bounds::CONNECT.allow(ms(600_001)));
    }
}
