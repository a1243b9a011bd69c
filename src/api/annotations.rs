//! Labels and annotations that mean something to Poolkeeper.

/// On a pod or its namespace: whether the sidecar is wanted, [`ENABLED`] or [`DISABLED`].
pub const INJECT: &str = "poolkeeper.dev/inject";
/// Value of [`INJECT`]: yes.
pub const ENABLED: &str = "enabled";
/// Value of [`INJECT`]: no.
pub const DISABLED: &str = "disabled";

/// Label on a pod: the name of the one policy that is for it; selectors are not asked.
pub const POLICY: &str = "poolkeeper.dev/policy";

/// Label that injection puts on a pod, with the contract's version; what the operator watches.
pub const INJECTED: &str = "poolkeeper.dev/injected";

/// Annotation on a pod: the Secrets to mount, separated by commas, where the policy may come later.
pub const CREDENTIALS: &str = "poolkeeper.dev/credentials";
/// Annotation on a pod: environment variables to set in the app's containers, from `PGHOST,PGPORT`.
pub const INJECT_ENV: &str = "poolkeeper.dev/inject-env";

/// Annotation that injection puts on a pod: a short hash of the sidecar and its volumes as they were injected. Others may
/// change them after that; injection makes them anew only if it would inject something else.
pub const INJECTION: &str = "poolkeeper.dev/injection";
/// Annotation that injection puts on a pod: the configuration at that time ([`crate::contract::Configuration`] in JSON),
/// so that a pod starts without a leader.
pub const CONFIGURATION: &str = "poolkeeper.dev/configuration";
/// Annotation that injection puts on a pod: the authorities that sign the operator's certificates (PEM).
pub const CA: &str = "poolkeeper.dev/ca";

/// Condition of a pod: it runs the newest revision of every policy that is for it.
pub const POOL_CONFIGURED: &str = "poolkeeper.dev/PoolConfigured";
/// Condition of a pod: its databases answer.
pub const POOL_HEALTHY: &str = "poolkeeper.dev/PoolHealthy";
