//! Poolkeeper as it is shipped, on a real Kubernetes node (`tests/cluster`): image, manifests, webhooks, kubelet and probes,
//! an app with an ordinary driver under load, and a PostgreSQL outside of the cluster.
//!
//! - `changes`: each field of `pool` and `timeouts`, again and again under load, with its effect and the status.
//! - `trouble`: what is refused; one chart with app and policy; Secrets, hosts and databases that are wrong, and mended.
//! - `operators`: killed, scaled to nothing, not leading; the chart upgraded, uninstalled and purged.
//! - `endings`: rolling updates, evictions, a Job that ends, an app that ignores SIGTERM.
//! - `rotation`: another password, then another role.
//! - `policies`: several for one pod, a conflict, opting out, a policy that comes later, NetworkPolicy.
//! - `shapes`: hostNetwork, root, Guaranteed, two containers, DaemonSet.
//!
//! All tests share one node. Most run side by side, each in a namespace of its own; those that take the operator away have it for
//! themselves. Where there is no root or no namespaces they are skipped, and say so; with `POOLKEEPER_E2E=required` they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod app;
mod changes;
mod database;
mod endings;
mod node;
mod operators;
mod policies;
mod rotation;
mod shapes;
mod trouble;
mod world;
