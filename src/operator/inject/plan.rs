//! What a pod needs of its sidecar, decided once; and every reason for which it can't have one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{Ask, CONTAINER, Settings, annotation, label, list, sidecar, volumes};
use crate::api::annotations::{CREDENTIALS, DISABLED, INJECT, INJECT_ENV, INJECTION, POLICY};
use crate::api::resolve::{self, DEFAULT_SOCKET_DIR, Resolved};
use crate::operator::index::{Assigned, Withheld};

/// Secrets that a pod may name.
const MAX_SECRETS: usize = 32;
/// Where native sidecars came: minor version of Kubernetes 1.
const NATIVE_SIDECARS: u32 = 29;
/// How many minor versions a kubelet may be behind its API server.
const KUBELET_LAG: u32 = 3;
/// Where the policy does not say it, or is not there yet.
const DEFAULT_PORT: u16 = 6432;

/// What is decided of one pod's sidecar.
pub struct Plan<'a> {
    /// The pod as it came.
    pub pod: &'a Pod,
    /// Its `spec`.
    pub spec: &'a PodSpec,
    /// What the operator was told.
    pub settings: &'a Settings,
    /// The policies that one sidecar can serve together, ordered by name.
    pub policies: Vec<&'a Assigned>,
    /// Policies that it can't serve beside older ones, with the reason.
    pub clashing: Vec<Withheld>,
    /// Secrets to mount, ordered.
    pub secrets: Vec<String>,
    /// The annotation names the Secrets.
    pub secrets_named: bool,
    /// Environment variables to set in the app's containers.
    pub environment: Vec<Variable>,
    /// It runs in its node's network.
    pub host_network: bool,
    /// Directory of the unix sockets, if there are to be any.
    pub socket: Option<String>,
    /// Where the sidecar listens for TCP; port 0 = nowhere.
    pub listen: SocketAddr,
    /// TCP address for clients in the pod; none = the socket alone.
    pub tcp: Option<(IpAddr, u16)>,
    /// An earlier injection left its marks.
    pub injected_before: bool,
    /// Kubelets of this cluster may be too old for native sidecars.
    pub old_kubelets: bool,
}

/// An environment variable that tells clients where the sidecar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `PGHOST`.
    Host,
    /// `PGPORT`.
    Port,
}

impl Variable {
    const ALL: [Self; 2] = [Self::Host, Self::Port];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "PGHOST",
            Self::Port => "PGPORT",
        }
    }
}

impl<'a> Plan<'a> {
    /// Decides everything.
    ///
    /// # Errors
    /// Why the pod can't have a sidecar, and what to do.
    pub fn new(pod: &'a Pod, ask: &Ask<'a>, settings: &'a Settings) -> Result<Self, String> {
        let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
        let old_kubelets = platform(spec, settings)?;
        let injected_before = annotation(pod, INJECTION).is_some();
        names(spec, injected_before)?;
        let (policies, clashing) = together(ask.policies);
        let named = annotation(pod, CREDENTIALS).map(credentials).transpose()?;
        if policies.is_empty() && named.is_none() {
            return Err(nobody(pod, ask));
        }
        let host_network = spec.host_network.unwrap_or(false);
        let listen = policies.first().map(|policy| &policy.resolved.listen);
        let socket = match listen {
            None => Some(DEFAULT_SOCKET_DIR.to_owned()),
            Some(listen) => listen.socket.as_ref().map(|path| path.display().to_string()),
        };
        if let Some(socket) = &socket {
            mountable(socket)?;
        }
        if host_network && socket.is_none() {
            let message = "a pod with hostNetwork gets the unix socket only, and its policy sets spec.listen.socket to \"\": name a directory";
            return Err(message.into());
        }
        let port = listen.map_or(DEFAULT_PORT, |listen| listen.port);
        if port == settings.http_port && !host_network {
            return Err(format!(
                "its policy's spec.listen.port is {port}, where the sidecar has its HTTP endpoints: take another"
            ));
        }
        let address = listen.map_or(IpAddr::from([127, 0, 0, 1]), |listen| listen.address);
        let secrets_named = named.is_some();
        let needed = || policies.iter().flat_map(|policy| policy.resolved.secrets()).map(str::to_owned).collect();
        let mut secrets: Vec<_> = named.unwrap_or_else(needed);
        secrets.sort();
        secrets.dedup();
        Ok(Self {
            pod,
            spec,
            settings,
            policies,
            clashing,
            secrets,
            secrets_named,
            environment: environment(pod)?,
            host_network,
            socket,
            listen: SocketAddr::new(address, port),
            tcp: (port != 0 && !host_network).then_some((local(address), port)),
            injected_before,
            old_kubelets,
        })
    }

    /// Containers of the user's: those of the app, and init containers.
    pub fn containers(&self) -> impl Iterator<Item = &'a Container> {
        let spec = self.spec;
        let init = spec.init_containers.iter().flatten().filter(|container| container.name != CONTAINER);
        init.chain(&spec.containers)
    }
}

/// Where a client in the pod reaches a listener.
fn local(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        other => other,
    }
}

/// Whether the pod's node can run a native sidecar of ours; true if it may be too old.
fn platform(spec: &PodSpec, settings: &Settings) -> Result<bool, String> {
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err("Poolkeeper has no image for Windows: label the pod poolkeeper.dev/inject: disabled".into());
    }
    match settings.kubernetes {
        Some((1, minor)) if minor < NATIVE_SIDECARS => Err(format!(
            "Kubernetes 1.{minor} has no native sidecars, so the pod would never start: Poolkeeper needs 1.33 or later"
        )),
        Some((1, minor)) => Ok(minor - KUBELET_LAG < NATIVE_SIDECARS),
        _ => Ok(false),
    }
}

/// Whether names that injection takes are the user's.
fn names(spec: &PodSpec, injected_before: bool) -> Result<(), String> {
    let init = spec.init_containers.iter().flatten().filter(|container| container.name == CONTAINER);
    // One that we injected is an init container that is restarted always.
    let ours = |container: &Container| injected_before && container.restart_policy.as_deref() == Some("Always");
    let theirs =
        init.filter(|container| !ours(container)).chain(spec.containers.iter().filter(|c| c.name == CONTAINER));
    if theirs.count() > 0 {
        return Err(format!(
            "the pod has a container {CONTAINER:?} of its own, which is the sidecar's name: rename it"
        ));
    }
    let taken = spec.volumes.iter().flatten().find(|volume| volumes::is_ours(&volume.name));
    match taken.filter(|_| !injected_before) {
        Some(volume) => Err(format!(
            "the pod has a volume {:?} of its own, which is a name of the sidecar's volumes: rename it",
            volume.name
        )),
        None => Ok(()),
    }
}

/// The policies that one sidecar can serve together, and why not the others. They come oldest first.
fn together(policies: &[Arc<Assigned>]) -> (Vec<&Assigned>, Vec<Withheld>) {
    let (mut taken, mut clashing) = (Vec::<&Assigned>::new(), Vec::new());
    for policy in policies {
        let mut all: Vec<&Resolved> = taken.iter().map(|policy| &*policy.resolved).collect();
        all.push(&policy.resolved);
        let problems = resolve::conflicts(&all);
        if problems.is_empty() {
            taken.push(policy);
        } else {
            let why: Vec<_> = problems.into_iter().map(|(_, problem)| problem.to_string()).collect();
            clashing.push(Withheld { name: policy.key.name.clone(), why: why.join("; ") });
        }
    }
    taken.sort_by(|a, b| a.key.cmp(&b.key));
    (taken, clashing)
}

/// The Secrets of the annotation.
fn credentials(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<_> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() || names.len() > MAX_SECRETS {
        return Err(format!("annotation {CREDENTIALS} must name 1 to {MAX_SECRETS} Secrets, separated by commas"));
    }
    match names.iter().find(|name| !is_secret_name(name)) {
        Some(wrong) => Err(format!("annotation {CREDENTIALS}: {wrong:?} is no name of a Secret")),
        None => Ok(names),
    }
}

/// As RFC 1123 has subdomains.
fn is_secret_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label =
        |label: &str| label.starts_with(edge) && label.ends_with(edge) && label.chars().all(|c| edge(c) || c == '-');
    name.len() <= 253 && name.split('.').all(label)
}

/// The variables of the annotation.
fn environment(pod: &Pod) -> Result<Vec<Variable>, String> {
    let Some(text) = annotation(pod, INJECT_ENV) else { return Ok(Vec::new()) };
    let names: Vec<_> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let known = |name: &str| Variable::ALL.into_iter().find(|variable| variable.name() == name);
    if let Some(wrong) = names.iter().find(|name| known(name).is_none()) {
        return Err(format!("annotation {INJECT_ENV}: {wrong:?} is neither PGHOST nor PGPORT"));
    }
    Ok(Variable::ALL.into_iter().filter(|variable| names.contains(&variable.name())).collect())
}

/// Whether the directory can be a volume in every container, the sidecar's own included.
fn mountable(socket: &str) -> Result<(), String> {
    let plain = socket.trim_end_matches('/');
    let odd = plain.is_empty() || plain.contains(':') || plain.split('/').any(|part| part == "..");
    let taken = sidecar::DIRECTORIES.into_iter().find(|dir| plain == *dir || plain.starts_with(&format!("{dir}/")));
    match (odd, taken) {
        (true, _) => Err(format!(
            "its policy's spec.listen.socket {socket:?} can't be mounted into a pod: name another directory"
        )),
        (_, Some(dir)) => Err(format!(
            "its policy's spec.listen.socket {socket:?} is where the sidecar has its own files ({dir}): name another directory"
        )),
        _ => Ok(()),
    }
}

/// Nothing says what the sidecar is to serve.
fn nobody(pod: &Pod, ask: &Ask<'_>) -> String {
    let namespace = ask.namespace;
    let way_out = format!(
        "or annotate the pod with {CREDENTIALS}: NAME[,NAME] (the Secrets that its policy will use) to start it before its \
         policy, or label it {INJECT}: {DISABLED}"
    );
    if !ask.withheld.is_empty() {
        let withheld: Vec<_> = ask.withheld.iter().map(|policy| format!("{} ({})", policy.name, policy.why)).collect();
        let withheld = withheld.join(", ");
        return format!(
            "the pod asks for the sidecar, and can't be given its DbPoolPolicy: {withheld}. Mend that, {way_out}"
        );
    }
    if let Some(name) = label(pod, POLICY) {
        return format!(
            "label {POLICY} names DbPoolPolicy {name}, which is not in namespace {namespace}: apply it, {way_out}"
        );
    }
    let labels = pod.metadata.labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let labels: Vec<_> = labels.filter(|label| !label.starts_with("poolkeeper.dev/")).collect();
    let labels = if labels.is_empty() { "none".into() } else { list(labels.iter().map(String::as_str)) };
    format!(
        "the pod asks for the sidecar, and no DbPoolPolicy in namespace {namespace} is for it (its labels: {labels}): apply \
         one whose spec.selector matches, {way_out}"
    )
}
