//! Policies as the operator tells them.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Finding, Snapshot};
use crate::api::resolve::{self, Problem, Resolved};
use crate::api::schema;
use crate::contract::Policy;

/// Where clients are expected as long as no policy says where; `None` = as by a policy that says nothing.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The TCP address; port 0 = no TCP.
    pub address: Option<SocketAddr>,
    /// The directory of the unix sockets.
    pub socket: Option<PathBuf>,
}

/// What a finding says instead of a file.
pub fn origin(namespace: &str, name: &str) -> String {
    format!("operator: {namespace}/{name}")
}

/// A told policy with every value decided: the same rules as for a file, but revision and generation are the
/// operator's.
///
/// # Errors
/// Everything that is wrong with it.
pub fn resolve(policy: &Policy, spec: &Value) -> Result<Resolved, Vec<Problem>> {
    let metadata = json!({ "namespace": policy.namespace, "name": policy.name, "generation": policy.generation });
    let resolved = resolve::resolve_value(schema::document_of(metadata, spec.clone()))?;
    Ok(Resolved { generation: Some(policy.generation), revision: policy.revision.clone(), ..resolved })
}

/// A configuration without policies, which listens at `place`.
///
/// # Errors
/// If that is nowhere.
pub fn empty(place: &Place) -> Result<Snapshot, Vec<Finding>> {
    let mut listen = json!({});
    if let Some(address) = place.address {
        listen["address"] = address.ip().to_string().into();
        listen["port"] = address.port().into();
    }
    if let Some(socket) = &place.socket {
        listen["socket"] = socket.display().to_string().into();
    }
    let spec = json!({ "database": { "host": "localhost", "name": "none" }, "listen": listen });
    let resolved = resolve::resolve_value(schema::document_of(json!({ "name": "none" }), spec));
    let resolved = resolved
        .map_err(|problems| problems.into_iter().map(|p| Finding::new("command line", p)).collect::<Vec<_>>())?;
    let Resolved { listen, shutdown_grace, .. } = resolved;
    Ok(Snapshot { policies: Vec::new(), listen, tls: None, shutdown_grace })
}

#[cfg(test)]
mod tests;
