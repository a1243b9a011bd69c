//! `DATABASE_URL`, as libpq reads connection URIs
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>), and with the scheme
//! `postgresql+DRIVER` that SQLAlchemy adds. No message quotes a part of it: any part may be a piece of a password.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::api::resolve::TlsMode;
use crate::pg::auth::Secret;

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseUrl {
    /// Host name, address, or the directory of a unix socket.
    pub host: String,
    /// Its port, if it says one.
    pub port: Option<u16>,
    /// The database; the user's name where it says none.
    pub database: String,
    /// The user.
    pub user: String,
    /// The password, if it says one.
    pub password: Option<Secret>,
    /// `sslmode`, or what holds without it.
    pub tls: TlsMode,
    /// `sslrootcert`.
    pub root_certificate: Option<PathBuf>,
    /// `connect_timeout` in seconds, unless it is 0 (libpq's "no limit").
    pub connect_timeout: Option<u32>,
    /// Parameters that mean nothing here.
    pub ignored: Vec<String>,
}

/// What is wrong with a URL, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is another.
    #[error("is no PostgreSQL URL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")]
    Scheme,
    /// A `%` that no two hexadecimal digits follow, or no UTF-8 after decoding.
    #[error("has a % that is no %XX: write % as %25, and /, @, : or ? in a password as %2F, %40, %3A or %3F")]
    Percent,
    /// More than one host.
    #[error("names several hosts: write one")]
    Hosts,
    /// No host.
    #[error("names no host: write one after the @, or ?host=/DIRECTORY for a unix socket")]
    NoHost,
    /// No user.
    #[error("names no user: write postgresql://USER:PASSWORD@HOST/DATABASE")]
    NoUser,
    /// The port is none.
    #[error(
        "has a port that is no number from 1 to 65535 (a / @ : or ? in the password must be written as %2F %40 %3A %3F)"
    )]
    Port,
    /// The TLS mode is none of libpq's.
    #[error("has a wrong sslmode: write disable, prefer, require, verify-ca or verify-full")]
    TlsMode,
    /// The connect timeout is no number.
    #[error("has a wrong connect_timeout: write whole seconds")]
    ConnectTimeout,
}

/// Reads a URL.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(url: &str) -> Result<DatabaseUrl, UrlError> {
    let (scheme, rest) = url.trim().split_once("://").ok_or(UrlError::Scheme)?;
    if !matches!(scheme.split_once('+').map_or(scheme, |(scheme, _)| scheme), "postgres" | "postgresql") {
        return Err(UrlError::Scheme);
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (userinfo, hostport) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match userinfo.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (userinfo, None),
    };
    let (host, port) = host_and_port(hostport)?;
    let mut parts = Parts {
        host: decode(host)?,
        port: port.to_owned(),
        database: decode(database)?,
        user: decode(user)?,
        password: password.map(decode).transpose()?,
        ..Parts::default()
    };
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        parts.parameter(decode(name)?, decode(value)?);
    }
    parts.finish()
}

/// What was found, not yet read as what it should be.
#[derive(Default)]
struct Parts {
    host: String,
    port: String,
    database: String,
    user: String,
    password: Option<String>,
    tls: Option<String>,
    root_certificate: Option<String>,
    connect_timeout: Option<String>,
    ignored: Vec<String>,
}

impl Parts {
    fn parameter(&mut self, name: String, value: String) {
        match name.as_str() {
            "host" => self.host = value,
            "port" => self.port = value,
            "dbname" => self.database = value,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            // asyncpg calls it ssl.
            "sslmode" | "ssl" => self.tls = Some(value),
            "sslrootcert" if value != "system" => self.root_certificate = Some(value),
            "sslrootcert" => {}
            "connect_timeout" => self.connect_timeout = Some(value),
            _ => self.ignored.push(name),
        }
    }

    fn finish(self) -> Result<DatabaseUrl, UrlError> {
        let port = match self.port.as_str() {
            "" => None,
            port => Some(port.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Port)?),
        };
        if self.host.contains(',') {
            return Err(UrlError::Hosts);
        }
        if self.host.is_empty() {
            return Err(UrlError::NoHost);
        }
        if self.user.is_empty() {
            return Err(UrlError::NoUser);
        }
        let timeout = self.connect_timeout.map(|text| text.parse::<u32>().map_err(|_| UrlError::ConnectTimeout));
        let tls = tls_mode(self.tls.as_deref(), &self.host, self.root_certificate.is_some())?;
        let database = if self.database.is_empty() { self.user.clone() } else { self.database };
        Ok(DatabaseUrl {
            host: self.host,
            port,
            database,
            user: self.user,
            password: self.password.filter(|password| !password.is_empty()).map(Secret::new),
            tls,
            root_certificate: self.root_certificate.map(PathBuf::from),
            connect_timeout: timeout.transpose()?.filter(|seconds| *seconds > 0),
            ignored: self.ignored,
        })
    }
}

/// `sslmode`; without it nothing is verified on this machine, and everything elsewhere.
fn tls_mode(mode: Option<&str>, host: &str, roots: bool) -> Result<TlsMode, UrlError> {
    let unix = host.starts_with('/');
    let local = unix || host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    Ok(match mode {
        // libpq ignores the mode over unix sockets.
        _ if unix => TlsMode::Disable,
        None if local => TlsMode::Prefer,
        None => TlsMode::VerifyFull,
        Some("disable" | "false") => TlsMode::Disable,
        Some("allow" | "prefer") => TlsMode::Prefer,
        // As libpq documents it: with a root certificate, require is verify-ca.
        Some("require" | "true") if !roots => TlsMode::Require,
        Some("require" | "true" | "verify-ca") => TlsMode::VerifyCa,
        Some("verify-full") => TlsMode::VerifyFull,
        Some(_) => return Err(UrlError::TlsMode),
    })
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`.
fn host_and_port(text: &str) -> Result<(&str, &str), UrlError> {
    if text.contains(',') {
        return Err(UrlError::Hosts);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(UrlError::NoHost)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err(UrlError::Port),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

/// Decodes `%XX`.
fn decode(text: &str) -> Result<String, UrlError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (high, low) = (digit(bytes.next()), digit(bytes.next()));
        out.push(high.zip(low).map(|(high, low)| high << 4 | low).ok_or(UrlError::Percent)?);
    }
    String::from_utf8(out).ok().filter(|text| !text.contains('\0')).ok_or(UrlError::Percent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_applications_have() {
        let url =
            parse("postgresql+asyncpg://app:p%40ss%2F@db.shop:5433/orders?ssl=require&application_name=x").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.database.as_str()), ("db.shop", Some(5433), "orders"));
        assert_eq!((url.user.as_str(), url.password.as_ref().map(Secret::expose)), ("app", Some("p@ss/")));
        assert_eq!((url.tls, url.ignored), (TlsMode::Require, vec!["application_name".to_owned()]));
    }

    #[test]
    fn follows_libpq() {
        for (text, host, port, database) in [
            ("postgres://u:p@h", "h", None, "u"),
            ("postgres://u:p@h/", "h", None, "u"),
            ("postgres://u:p@h:1/d", "h", Some(1), "d"),
            ("postgres://u:p@[::1]/d", "::1", None, "d"),
            ("postgres://u:p@[::1]:7/d", "::1", Some(7), "d"),
            ("postgres://u:p@%2Frun%2Fpg/d", "/run/pg", None, "d"),
            ("postgres:///d?host=/run/pg&user=u&port=5", "/run/pg", Some(5), "d"),
            ("postgres://u:p@h/d?dbname=e", "h", None, "e"),
            ("postgres://u:a@b@h/d", "h", None, "d"),
            ("  postgres://u@h/d\n", "h", None, "d"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.host.as_str(), url.port, url.database.as_str()), (host, port, database), "{text}");
        }
    }

    #[test]
    fn the_tls_mode_follows_sslmode_then_the_place() {
        for (host, query, tls) in [
            ("h", "", TlsMode::VerifyFull),
            ("localhost", "", TlsMode::Prefer),
            ("127.0.0.2", "", TlsMode::Prefer),
            ("[::1]", "", TlsMode::Prefer),
            ("%2Frun", "", TlsMode::Disable),
            ("%2Frun", "sslmode=verify-full", TlsMode::Disable),
            ("h", "sslmode=disable", TlsMode::Disable),
            ("h", "sslmode=allow", TlsMode::Prefer),
            ("h", "sslmode=prefer", TlsMode::Prefer),
            ("h", "sslmode=require", TlsMode::Require),
            ("h", "sslmode=require&sslrootcert=/ca", TlsMode::VerifyCa),
            ("h", "sslmode=require&sslrootcert=system", TlsMode::Require),
            ("h", "sslmode=verify-ca", TlsMode::VerifyCa),
            ("localhost", "sslmode=verify-full", TlsMode::VerifyFull),
        ] {
            assert_eq!(parse(&format!("postgres://u:p@{host}/d?{query}")).unwrap().tls, tls, "{host} {query}");
        }
    }

    #[test]
    fn timeouts_are_whole_seconds_and_zero_is_none() {
        let timeout = |text| parse(&format!("postgres://u@h?connect_timeout={text}")).map(|url| url.connect_timeout);
        assert_eq!(timeout("7"), Ok(Some(7)));
        assert_eq!(timeout("0"), Ok(None));
        assert_eq!(timeout("x"), Err(UrlError::ConnectTimeout));
    }

    #[test]
    fn refuses_without_quoting() {
        for (text, error) in [
            ("", UrlError::Scheme),
            ("mysql://u:p@h/d", UrlError::Scheme),
            ("u:p@h/d", UrlError::Scheme),
            ("postgres://u:p%4@h/d", UrlError::Percent),
            ("postgres://u:p%zz@h/d", UrlError::Percent),
            ("postgres://u:p%ff@h/d", UrlError::Percent),
            ("postgres://u:p%00@h/d", UrlError::Percent),
            ("postgres://u:p@h1,h2/d", UrlError::Hosts),
            ("postgres://u:p@/d?host=h1,h2", UrlError::Hosts),
            ("postgres://u:p@/d", UrlError::NoHost),
            ("postgres://u:p@[::1/d", UrlError::NoHost),
            ("postgres://h/d", UrlError::NoUser),
            ("postgres://u:p@h:0/d", UrlError::Port),
            ("postgres://u:p@h:x/d", UrlError::Port),
            ("postgres://u:p@h:70000/d", UrlError::Port),
            ("postgres://u:p@[::1]x/d", UrlError::Port),
            ("postgres://u:hunter2/secret@h/d", UrlError::Port),
            ("postgres://u:p@h/d?sslmode=maybe", UrlError::TlsMode),
        ] {
            assert_eq!(parse(text), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
