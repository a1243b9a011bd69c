//! The environment as configuration: `DATABASE_URL`, `DB_POOL_SIZE`, `DB_MAX_OVERFLOW`, `DB_POOL_RECYCLE` and
//! `DB_POOL_TIMEOUT`, as many applications have them already, over the preset Production.

use std::path::PathBuf;

use super::Finding;
use super::url::{self, DatabaseUrl};
use crate::api::duration::Duration;
use crate::api::resolve::{self, DbPoolPolicy, DbPoolPolicySpec, Preset, Problem, Resolved};
use crate::api::v1alpha1::{DatabaseSpec, DatabaseTlsSpec, PoolSpec, TimeoutsSpec};
use crate::pg::auth::Secret;

/// What a finding in the environment says instead of a file.
pub const ORIGIN: &str = "environment";

/// The variables, as they were at start.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    url: Option<Secret>,
    pool_size: Option<String>,
    max_overflow: Option<String>,
    pool_recycle: Option<String>,
    pool_timeout: Option<String>,
}

/// Who logs in, by `DATABASE_URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password, if there is one.
    pub password: Option<Secret>,
    /// The file of the authorities to trust, `sslrootcert`.
    pub root_certificate: Option<PathBuf>,
}

impl From<DatabaseUrl> for Login {
    fn from(url: DatabaseUrl) -> Self {
        Self { user: url.user, password: url.password, root_certificate: url.root_certificate }
    }
}

impl Environment {
    /// Reads the process' variables. An empty one counts as not set; what is no UTF-8 is read with replacements, which
    /// no setting takes.
    pub fn read() -> Self {
        Self::from_lookup(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()))
    }

    /// Reads variables from anywhere.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name| lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        Self {
            url: get("DATABASE_URL").map(Secret::new),
            pool_size: get("DB_POOL_SIZE"),
            max_overflow: get("DB_MAX_OVERFLOW"),
            pool_recycle: get("DB_POOL_RECYCLE"),
            pool_timeout: get("DB_POOL_TIMEOUT"),
        }
    }

    /// The names of the variables that a policy overrules, of those that are set.
    pub fn overruled(&self) -> Vec<&'static str> {
        let variables = [
            ("DB_POOL_SIZE", &self.pool_size),
            ("DB_MAX_OVERFLOW", &self.max_overflow),
            ("DB_POOL_RECYCLE", &self.pool_recycle),
            ("DB_POOL_TIMEOUT", &self.pool_timeout),
        ];
        variables.into_iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name).collect()
    }

    /// Who logs in; `None` without `DATABASE_URL`.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn login(&self) -> Result<Option<Login>, Problem> {
        Ok(self.url()?.map(Login::from))
    }

    fn url(&self) -> Result<Option<DatabaseUrl>, Problem> {
        let url = self.url.as_ref().map(|text| url::parse(text.expose())).transpose();
        url.map_err(|error| Problem::new("DATABASE_URL", error.to_string()))
    }

    /// The policy that the variables amount to, and what to warn of.
    ///
    /// # Errors
    /// Everything that is wrong, by variable.
    pub fn policy(&self) -> Result<(Resolved, Vec<String>), Vec<Finding>> {
        let mut problems = Vec::new();
        let mut warnings = Vec::new();
        let url = self.url().unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        if self.url.is_none() {
            let message = "is not set, and there is no --policy: set it, or give --policy FILE_OR_DIR";
            problems.push(Problem::new("DATABASE_URL", message));
        }
        let pool = PoolSpec {
            size: whole("DB_POOL_SIZE", self.pool_size.as_deref(), &mut problems),
            max_overflow: whole("DB_MAX_OVERFLOW", self.max_overflow.as_deref(), &mut problems),
            recycle: self.recycle(&mut problems, &mut warnings),
            ..PoolSpec::default()
        };
        let acquire = self.pool_timeout.as_deref().and_then(|text| seconds("DB_POOL_TIMEOUT", text, &mut problems));
        let name = url.as_ref().map(|url| url.database.clone()).unwrap_or_default();
        let ignored = url.iter().flat_map(|url| &url.ignored);
        warnings.extend(ignored.map(|name| format!("DATABASE_URL: the parameter {name} means nothing here")));
        let spec = spec(url.as_ref(), pool, acquire);
        match resolve::resolve(&DbPoolPolicy::new("environment", spec)) {
            Ok(resolved) if problems.is_empty() => return Ok((Resolved { name, ..resolved }, warnings)),
            Ok(_) => {}
            // Without a URL the database's fields are placeholders.
            Err(more) => problems.extend(more.into_iter().map(by_variable)),
        }
        Err(problems.into_iter().map(|problem| Finding::new(ORIGIN, problem)).collect())
    }

    /// Seconds; -1 and 0 are "never", which for 0 is not what SQLAlchemy does.
    fn recycle(&self, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) -> Option<Duration> {
        match self.pool_recycle.as_deref()? {
            "-1" => Some(Duration::default()),
            text => {
                let recycle = seconds("DB_POOL_RECYCLE", text, problems);
                if recycle == Some(Duration::default()) {
                    warnings.push("DB_POOL_RECYCLE: 0 is taken as never, as -1; write -1 to say so".into());
                }
                recycle
            }
        }
    }
}

fn spec(url: Option<&DatabaseUrl>, pool: PoolSpec, acquire: Option<Duration>) -> DbPoolPolicySpec {
    let connect = url.and_then(|url| url.connect_timeout).map(|seconds| Duration::from_secs(seconds.into()));
    DbPoolPolicySpec {
        selector: None,
        preset: Preset::Production,
        database: DatabaseSpec {
            host: url.map_or("x", |url| &url.host).to_owned(),
            port: url.and_then(|url| url.port).map(i32::from),
            name: url.map_or("x", |url| &url.database).to_owned(),
            alias: None,
            credentials: None,
            tls: url.map(|url| DatabaseTlsSpec { mode: Some(url.tls), ca_secret_name: None }),
        },
        pool: Some(pool),
        timeouts: Some(TimeoutsSpec { acquire, connect, ..TimeoutsSpec::default() }),
        health: None,
        listen: None,
        shutdown: None,
    }
}

/// Names the variable instead of the policy's field.
fn by_variable(problem: Problem) -> Problem {
    let variable = match problem.path.as_str() {
        "spec.pool.size" => "DB_POOL_SIZE",
        "spec.pool.maxOverflow" => "DB_MAX_OVERFLOW",
        "spec.pool.recycle" => "DB_POOL_RECYCLE",
        "spec.timeouts.acquire" => "DB_POOL_TIMEOUT",
        _ => return Problem::new("DATABASE_URL", format!("{}: {}", problem.path, problem.message)),
    };
    Problem::new(variable, problem.message)
}

fn whole(variable: &str, text: Option<&str>, problems: &mut Vec<Problem>) -> Option<i32> {
    let text = text?;
    let parsed = text.parse();
    parsed.map_err(|_| problems.push(Problem::new(variable, format!("{text:?} is no whole number")))).ok()
}

/// Seconds with at most three decimals.
fn seconds(variable: &str, text: &str, problems: &mut Vec<Problem>) -> Option<Duration> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let parsed = Some(format!("{text}s")).filter(|_| plain).and_then(|text| text.parse().ok());
    if parsed.is_none() {
        problems.push(Problem::new(variable, format!("{text:?} is no number of seconds: write one, as 30 or 0.5")));
    }
    parsed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::resolve::{CredentialsSource, TlsMode};

    const URL: (&str, &str) = ("DATABASE_URL", "postgres://app:secret@localhost/orders");

    fn environment(set: &[(&str, &str)]) -> Environment {
        let set: Vec<(String, String)> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Environment::from_lookup(move |name| Some(set.iter().find(|(key, _)| key == name)?.1.clone()))
    }

    fn problems(set: &[(&str, &str)]) -> Vec<String> {
        environment(set).policy().unwrap_err().into_iter().map(|finding| finding.problem.path).collect()
    }

    #[test]
    fn missing_values_are_productions() {
        let (resolved, warnings) = environment(&[URL]).policy().unwrap();
        let pool = resolved.pool.settings();
        let secs = std::time::Duration::from_secs;
        assert_eq!((pool.size, pool.max_overflow), (20, Some(10)));
        assert_eq!((pool.recycle, pool.acquire, resolved.timeouts.connect), (Some(secs(3600)), secs(30), secs(10)));
        assert_eq!((resolved.timeouts.statement, pool.pre_ping), (Some(secs(30)), true));
        assert_eq!((resolved.name.as_str(), resolved.database.alias.as_str()), ("orders", "orders"));
        assert_eq!((resolved.database.tls, resolved.credentials), (TlsMode::Prefer, CredentialsSource::Environment));
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn every_variable_is_read() {
        let (resolved, _) = environment(&[
            ("DATABASE_URL", "postgres://app:secret@db.shop:5433/my_db?connect_timeout=3"),
            ("DB_POOL_SIZE", " 7 "),
            ("DB_MAX_OVERFLOW", "-1"),
            ("DB_POOL_RECYCLE", "90"),
            ("DB_POOL_TIMEOUT", "2.5"),
        ])
        .policy()
        .unwrap();
        let pool = resolved.pool.settings();
        let secs = std::time::Duration::from_secs;
        assert_eq!((pool.size, pool.max_overflow, pool.recycle), (7, None, Some(secs(90))));
        assert_eq!((pool.acquire.as_millis(), resolved.timeouts.connect), (2500, secs(3)));
        assert_eq!((resolved.database.host.as_str(), resolved.database.port), ("db.shop", 5433));
        assert_eq!((resolved.name.as_str(), resolved.database.tls), ("my_db", TlsMode::VerifyFull));
    }

    #[test]
    fn recycle_minus_one_and_zero_are_never() {
        for (text, warned) in [("-1", 0), ("0", 1), ("0.0", 1)] {
            let (resolved, warnings) = environment(&[URL, ("DB_POOL_RECYCLE", text)]).policy().unwrap();
            assert_eq!((resolved.pool.settings().recycle, warnings.len()), (None, warned), "{text}");
        }
    }

    #[test]
    fn a_size_of_zero_is_unlimited_and_a_timeout_of_zero_does_not_wait() {
        let (resolved, _) = environment(&[URL, ("DB_POOL_SIZE", "0"), ("DB_POOL_TIMEOUT", "0")]).policy().unwrap();
        assert_eq!((resolved.pool.limit(), resolved.pool.settings().acquire.as_secs()), (None, 0));
    }

    #[test]
    fn every_problem_names_its_variable() {
        assert_eq!(problems(&[]), ["DATABASE_URL"]);
        assert_eq!(problems(&[("DATABASE_URL", " ")]), ["DATABASE_URL"]);
        assert_eq!(problems(&[("DATABASE_URL", "nonsense"), ("DB_POOL_SIZE", "x")]), ["DATABASE_URL", "DB_POOL_SIZE"]);
        assert_eq!(
            problems(&[
                URL,
                ("DB_POOL_SIZE", "-3"),
                ("DB_MAX_OVERFLOW", "-2"),
                ("DB_POOL_RECYCLE", "-2"),
                ("DB_POOL_TIMEOUT", "1e3"),
            ]),
            ["DB_POOL_RECYCLE", "DB_POOL_TIMEOUT", "DB_MAX_OVERFLOW", "DB_POOL_SIZE"]
        );
        assert_eq!(problems(&[URL, ("DB_POOL_TIMEOUT", "99999")]), ["DB_POOL_TIMEOUT"]);
        assert_eq!(problems(&[("DATABASE_URL", "postgres://u:p@h/d?connect_timeout=9999")]), ["DATABASE_URL"]);
    }

    #[test]
    fn nothing_shows_the_password() {
        let environment = environment(&[URL]);
        assert!(!format!("{environment:?} {:?}", environment.login().unwrap()).contains("secret"));
    }
}
