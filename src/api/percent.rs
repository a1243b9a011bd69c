//! Shares as users write them: `10%`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a share looks like; the API server checks the same expression.
pub(super) const PATTERN: &str = r"^(100|[1-9]?[0-9])%$";

/// A share from `0%` to `100%`, in whole per cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// A share; more than 100 is 100.
    pub const fn new(percent: u8) -> Self {
        Self(if percent > 100 { 100 } else { percent })
    }

    /// The per cents, 0 to 100.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "is no share: write 0% to 100%";
        let digits = text.strip_suffix('%').ok_or(WRONG)?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        digits.parse().ok().filter(|n| plain && *n <= 100).map(Self).ok_or(WRONG)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 4, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pattern_and_parser_agree() {
        let pattern = regex_lite::Regex::new(PATTERN).unwrap();
        for text in ["0%", "9%", "10%", "100%", "101%", "00%", "01%", "", "%", "5", "-1%", "+1%", "1.5%", "999%", " 1%"]
        {
            assert_eq!(pattern.is_match(text), text.parse::<Percent>().is_ok(), "{text}");
        }
        assert_eq!("42%".parse::<Percent>().unwrap().get(), 42);
        assert_eq!("42%".parse::<Percent>().unwrap().to_string(), "42%");
    }
}
