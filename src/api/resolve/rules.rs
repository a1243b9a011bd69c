//! Defaults and the rules between fields, field group by field group.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration as StdDuration;

use sha2::{Digest, Sha256};

use super::{
    Auth, CredentialsSource, DEFAULT_SOCKET_DIR, Database, DbPoolPolicy, DbPoolPolicySpec, Health, Listen, ListenTls,
    Preset, Problem, Resolved, Timeouts, TlsMode,
};
use crate::api::duration::{Bounds, Duration};
use crate::api::percent::Percent;
use crate::api::schema;
use crate::api::v1alpha1 as v1;
use crate::pg::session::mine::Care;
use crate::pool;

/// Share of the servers that session state may bind to clients.
const MAX_PINNED: Percent = Percent::new(50);
/// A connection heard from more recently than this is lent without a ping.
const PING_AFTER: StdDuration = StdDuration::from_millis(500);

/// Decides every value of a policy that fits the schema, but for the values at `broken`, which were refused before.
pub fn settle(policy: DbPoolPolicy, broken: Vec<String>) -> Result<Resolved, Vec<Problem>> {
    let mut rules = Rules { broken, problems: Vec::new() };
    let resolved = rules.policy(policy);
    if rules.problems.is_empty() { resolved } else { Err(rules.problems) }
}

/// Fills in defaults, reads values and collects problems.
struct Rules {
    /// Paths whose values were refused already: no second problem is built upon them.
    broken: Vec<String>,
    problems: Vec<Problem>,
}

impl Rules {
    /// Adds the problem unless it rests on values that were refused themselves.
    fn refuse(&mut self, path: &str, inputs: &[&str], message: impl Into<String>) {
        let rests_on = |broken: &String| inputs.iter().chain([&path]).any(|input| schema::within(broken, input));
        if !self.broken.iter().any(rests_on) {
            self.problems.push(Problem::new(path, message));
            self.broken.push(path.to_owned());
        }
    }

    /// Fills in a duration and holds it against its bounds.
    fn duration(&mut self, path: &str, slot: &mut Option<Duration>, default: Duration, bounds: Bounds) -> Duration {
        let value = *slot.get_or_insert(default);
        if !bounds.allow(value) {
            self.refuse(path, &[], format!("{value} is out of bounds: write {bounds}"));
        }
        value
    }

    fn policy(&mut self, policy: DbPoolPolicy) -> Result<Resolved, Vec<Problem>> {
        let mut spec = policy.spec;
        self.selector(spec.selector.as_ref());
        let database = self.database(&mut spec.database);
        let listen = self.listen(spec.listen.get_or_insert_default());
        let shutdown = spec.shutdown.get_or_insert_default();
        let grace = self.duration("spec.shutdown.grace", &mut shutdown.grace, Duration::from_secs(30), Bounds::GRACE);
        let health = self.health(spec.health.get_or_insert_default());
        let (timeouts, acquire, shrink) = self.timeouts(spec.timeouts.get_or_insert_default());
        let mut settings = self.pool(spec.preset, spec.pool.get_or_insert_default());
        settings.acquire = acquire;
        settings.shrink = shrink;
        settings.max_waiting = listen.max_waiting;
        let pool_spec = spec.pool.get_or_insert_default();
        let (mode, reset) = (pool_spec.mode.unwrap_or_default(), pool_spec.reset_on_return.unwrap_or_default());
        let prepared = unsigned(pool_spec.prepared_statements.unwrap_or_default());
        let care = match pool_spec.session_state.unwrap_or_default() {
            v1::SessionState::Preserve => Care::Preserve,
            v1::SessionState::Strict => Care::Strict,
            v1::SessionState::Trusting => Care::Trusting,
            v1::SessionState::Reject => Care::Reject,
        };
        let max_pinned = pool_spec.max_pinned.unwrap_or_default().get();
        let pool = pool::Config::new(settings).map_err(|errors| {
            errors.into_iter().map(|error| Problem::new(pool_path(error.field), error.message)).collect::<Vec<_>>()
        })?;
        Ok(Resolved {
            name: policy.metadata.name.unwrap_or_default(),
            namespace: policy.metadata.namespace.unwrap_or_else(|| "default".into()),
            revision: revision(&spec),
            generation: policy.metadata.generation,
            listen,
            shutdown_grace: grace.get(),
            database,
            pool,
            mode,
            reset_on_return: reset,
            prepared_statements: prepared,
            care,
            max_pinned,
            timeouts,
            health,
            credentials: match &spec.database.credentials {
                Some(credentials) => CredentialsSource::Secret(credentials.secret_name.clone()),
                None => CredentialsSource::Environment,
            },
            effective: spec,
        })
    }

    fn selector(&mut self, selector: Option<&v1::Selector>) {
        let Some(selector) = selector else { return };
        for key in selector.match_labels.iter().flatten().map(|(key, _)| key) {
            if key.is_empty() || key.len() > 317 {
                self.refuse("spec.selector.matchLabels", &[], "keys must have 1 to 317 characters");
            }
        }
        for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
            let path = format!("spec.selector.matchExpressions[{index}].values");
            let operator = format!("spec.selector.matchExpressions[{index}].operator");
            let values = requirement.values.as_ref().is_some_and(|values| !values.is_empty());
            match (requirement.operator, values) {
                (v1::Operator::In | v1::Operator::NotIn, false) => {
                    self.refuse(&path, &[&operator], "In and NotIn need values: write at least one");
                }
                (v1::Operator::Exists | v1::Operator::DoesNotExist, true) => {
                    self.refuse(&path, &[&operator], "Exists and DoesNotExist take no values: leave them out");
                }
                _ => {}
            }
        }
    }

    fn database(&mut self, spec: &mut v1::DatabaseSpec) -> Database {
        let unix = spec.host.starts_with('/');
        let tls = spec.tls.get_or_insert_default();
        let mode = *tls.mode.get_or_insert(if unix { TlsMode::Disable } else { TlsMode::VerifyFull });
        if unix && !matches!(mode, TlsMode::Disable | TlsMode::Prefer) {
            self.refuse(
                "spec.database.tls.mode",
                &["spec.database.host"],
                "a unix socket has no TLS: leave tls.mode out, or give a host name",
            );
        } else if tls.ca_secret_name.is_some() && !mode.verifies() {
            self.refuse(
                "spec.database.tls.caSecretName",
                &["spec.database.host", "spec.database.tls.mode"],
                "is used by VerifyCa and VerifyFull only: set tls.mode to one of them, or leave it out",
            );
        }
        Database {
            alias: spec.alias.get_or_insert_with(|| spec.name.clone()).clone(),
            host: spec.host.clone(),
            port: port(*spec.port.get_or_insert(5432)),
            name: spec.name.clone(),
            tls: if unix { TlsMode::Disable } else { mode },
            ca_secret: tls.ca_secret_name.clone(),
        }
    }

    fn pool(&mut self, preset: Preset, spec: &mut v1::PoolSpec) -> pool::Settings {
        let hour = Duration::from_secs(3600);
        let size = unsigned(*spec.size.get_or_insert(preset.size()));
        let max_overflow = u32::try_from(*spec.max_overflow.get_or_insert(preset.max_overflow())).ok();
        let min_idle = unsigned(*spec.min_idle.get_or_insert(0));
        // Above size a connection is closed when given back, so more could not stay idle.
        if size > 0 && min_idle > size {
            self.refuse(
                "spec.pool.minIdle",
                &["spec.pool.size", "spec.preset"],
                format!("{min_idle} is above size, which is {size}: lower it, or raise size"),
            );
        }
        spec.mode.get_or_insert_default();
        spec.reset_on_return.get_or_insert_default();
        spec.prepared_statements.get_or_insert(200);
        spec.session_state.get_or_insert_default();
        spec.max_pinned.get_or_insert(MAX_PINNED);
        pool::Settings {
            size,
            max_overflow,
            cap: None,
            acquire: StdDuration::ZERO,
            recycle: self.duration("spec.pool.recycle", &mut spec.recycle, hour, Bounds::AGE).nonzero(),
            recycle_jitter_percent: spec.recycle_jitter.get_or_insert_default().get(),
            pre_ping: *spec.pre_ping.get_or_insert(true),
            ping_after: PING_AFTER,
            order: match spec.order.get_or_insert_default() {
                v1::Order::Fifo => pool::Order::Fifo,
                v1::Order::Lifo => pool::Order::Lifo,
            },
            min_idle,
            idle_timeout: self
                .duration("spec.pool.idleTimeout", &mut spec.idle_timeout, Duration::default(), Bounds::AGE)
                .nonzero(),
            shrink: None,
            max_waiting: 0,
        }
    }

    /// Also what the pool needs of them: acquire and shrink.
    fn timeouts(&mut self, spec: &mut v1::TimeoutsSpec) -> (Timeouts, StdDuration, Option<StdDuration>) {
        let (never, secs) = (Duration::default(), Duration::from_secs);
        let timeouts = Timeouts {
            connect: self.duration("spec.timeouts.connect", &mut spec.connect, secs(10), Bounds::CONNECT).get(),
            statement: self
                .duration("spec.timeouts.statement", &mut spec.statement, secs(30), Bounds::SESSION)
                .nonzero(),
            idle_in_transaction: self
                .duration("spec.timeouts.idleInTransaction", &mut spec.idle_in_transaction, never, Bounds::SESSION)
                .nonzero(),
        };
        let acquire = self.duration("spec.timeouts.acquire", &mut spec.acquire, secs(30), Bounds::ACQUIRE);
        let shrink = self.duration("spec.timeouts.shrink", &mut spec.shrink, never, Bounds::SHRINK);
        (timeouts, acquire.get(), shrink.nonzero())
    }

    fn health(&mut self, spec: &mut v1::HealthSpec) -> Health {
        let secs = Duration::from_secs;
        let interval = self.duration("spec.health.interval", &mut spec.interval, secs(5), Bounds::HEALTH);
        let timeout = self.duration("spec.health.timeout", &mut spec.timeout, secs(2), Bounds::HEALTH);
        if timeout > interval {
            self.refuse(
                "spec.health.timeout",
                &["spec.health.interval"],
                format!("{timeout} is above health.interval, which is {interval}: lower it, or raise interval"),
            );
        }
        Health {
            query: spec.query.get_or_insert_with(|| "SELECT 1".into()).clone(),
            interval: interval.get(),
            timeout: timeout.get(),
            failure_threshold: unsigned(*spec.failure_threshold.get_or_insert(3)),
            readiness: *spec.readiness.get_or_insert_default(),
        }
    }

    fn listen(&mut self, spec: &mut v1::ListenSpec) -> Listen {
        let secs = Duration::from_secs;
        let address = spec.address.get_or_insert_with(|| Ipv4Addr::LOCALHOST.to_string());
        let address = ip(address).unwrap_or_else(|| {
            self.refuse("spec.listen.address", &[], "is no IP address: write one, as 127.0.0.1 or ::1");
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        });
        let port = port(*spec.port.get_or_insert(6432));
        let socket_is_default = spec.socket.is_none();
        let socket = spec.socket.get_or_insert_with(|| DEFAULT_SOCKET_DIR.into()).as_str();
        let auth = *spec.auth.get_or_insert_default();
        if port == 0 && socket.is_empty() {
            let message = "port 0 and socket \"\" leave nothing to listen on: set one of them";
            self.refuse("spec.listen.port", &["spec.listen.socket"], message);
        }
        if auth == Auth::Trust && port != 0 && !address.is_loopback() {
            self.refuse(
                "spec.listen.auth",
                &["spec.listen.address", "spec.listen.port"],
                format!("Trust lets in whoever reaches {address}: use ScramSha256, a loopback address, or port 0"),
            );
        }
        Listen {
            address,
            port,
            socket: Some(PathBuf::from(socket)).filter(|path| !path.as_os_str().is_empty()),
            socket_is_default,
            auth,
            tls: spec
                .tls
                .as_ref()
                .map(|tls| ListenTls { secret: tls.secret_name.clone(), client_ca: tls.client_ca_secret_name.clone() }),
            max_clients: unsigned(*spec.max_clients.get_or_insert(2000)),
            max_waiting: unsigned(*spec.max_waiting.get_or_insert(0)),
            max_startup_packet: bytes(*spec.max_startup_packet.get_or_insert(10_000)),
            max_buffered: bytes(*spec.max_buffered.get_or_insert(1 << 20)),
            login_timeout: self
                .duration("spec.listen.loginTimeout", &mut spec.login_timeout, secs(60), Bounds::LOGIN)
                .get(),
            idle_timeout: self
                .duration("spec.listen.idleTimeout", &mut spec.idle_timeout, Duration::default(), Bounds::AGE)
                .nonzero(),
            keepalive: self
                .duration("spec.listen.keepalive", &mut spec.keepalive, secs(60), Bounds::KEEPALIVE)
                .nonzero(),
        }
    }
}

/// An address as CEL's `isIP` has it, which takes no IPv4 address written as an IPv6 one (`::ffff:127.0.0.1`).
fn ip(text: &str) -> Option<IpAddr> {
    let mapped = |address: &IpAddr| matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    text.parse().ok().filter(|address| !mapped(address))
}

/// A number that the schema keeps from being negative.
fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// A number of bytes that the schema keeps from being negative.
fn bytes(value: i32) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// A port that the schema keeps in its range.
fn port(value: i32) -> u16 {
    u16::try_from(value).unwrap_or(0)
}

/// The first 12 hexadecimal digits of the effective values' SHA-256.
fn revision(spec: &DbPoolPolicySpec) -> String {
    // The selector says which pods, not what they run.
    let spec = DbPoolPolicySpec { selector: None, ..spec.clone() };
    let digest = Sha256::digest(serde_json::to_vec(&spec).unwrap_or_default());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Where a field of the engine's settings stands in a policy.
fn pool_path(field: &str) -> &'static str {
    match field {
        "size" => "spec.pool.size",
        "max_overflow" => "spec.pool.maxOverflow",
        "min_idle" => "spec.pool.minIdle",
        "recycle" => "spec.pool.recycle",
        "recycle_jitter_percent" => "spec.pool.recycleJitter",
        "idle_timeout" => "spec.pool.idleTimeout",
        "acquire" => "spec.timeouts.acquire",
        "shrink" => "spec.timeouts.shrink",
        _ => "spec.pool",
    }
}
