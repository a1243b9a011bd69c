//! Where the operator listens.

use std::fmt;
use std::str::FromStr;

/// `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Name or address, without the brackets of IPv6.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no URL of an operator: write https://HOST:PORT");
        let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
        let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/?#@[]".contains(c);
        let host = bare.unwrap_or(host);
        if host.is_empty() || host.contains(odd) || (bare.is_none() && host.contains(':')) {
            return Err(wrong());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "https://[{host}]:{port}") } else { write!(f, "https://{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for text in ["https://poolkeeper.poolkeeper-system.svc:9443", "https://10.0.0.1:1", "https://[::1]:65535"] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), text);
        }
        assert_eq!("https://a:1/".parse::<Url>().unwrap(), Url { host: "a".into(), port: 1 });
        for text in [
            "",
            "a:1",
            "http://a:1",
            "https://a",
            "https://a:0",
            "https://a:x",
            "https://:1",
            "https://a b:1",
            "https://a:1/x",
            "https://::1:5",
        ] {
            assert!(text.parse::<Url>().unwrap_err().contains("https://HOST:PORT"), "{text}");
        }
    }
}
