//! Golden files: `tests/golden/inject/NAME.yaml` holds a pod and, after `---`, what becomes of it.
//! `POOLKEEPER_BLESS=1 cargo test --test inject golden` writes the second part anew: read the difference before you commit it.

use std::fs;
use std::path::PathBuf;

use poolkeeper::api::annotations::CONFIGURATION;
use poolkeeper::api::resolve::resolve_value;
use poolkeeper::contract::Configuration;
use poolkeeper::operator::inject::{Settings, Verdict};
use serde_json::{Value, json};

use crate::pss;
use crate::support::webhook::settings;
use crate::world::{documents, file, inject_into};

const SEPARATOR: &str = "\n---\n";

/// A golden file.
pub struct Shape {
    pub name: String,
    path: PathBuf,
    /// What is before the separator, comments and all.
    text: String,
    expected: String,
    pub pod: Value,
    pub namespace_asks: bool,
    pub settings: Settings,
}

impl Shape {
    pub fn verdict(&self) -> Verdict {
        inject_into(&self.pod, self.namespace_asks, &self.settings)
    }
}

pub fn shapes() -> Vec<Shape> {
    let files = fs::read_dir(file("tests/golden/inject")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files.into_iter().map(shape).collect()
}

fn shape(path: PathBuf) -> Shape {
    let whole = fs::read_to_string(&path).unwrap();
    let (text, expected) = whole.split_once(SEPARATOR).unwrap_or((whole.trim_end(), ""));
    let with: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# with: ")).collect();
    let mut settings = settings();
    if let Some(minor) = with.iter().find_map(|with| with.strip_prefix("kubernetes-1.")) {
        settings.kubernetes = Some((1, minor.parse().unwrap()));
    }
    Shape {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        pod: documents(text).remove(0),
        namespace_asks: with.contains(&"namespace-enabled"),
        settings,
        text: text.to_owned(),
        expected: expected.to_owned(),
        path,
    }
}

/// A stamped configuration without the policies' fields, which would change every golden file with every new one.
fn outline(configuration: &str) -> String {
    let Configuration { term, policies } = serde_json::from_str(configuration).unwrap();
    let names =
        policies.iter().map(|policy| format!("{}/{} generation {}", policy.namespace, policy.name, policy.generation));
    format!("term {term}: {}", names.collect::<Vec<_>>().join(", "))
}

#[test]
fn the_stamped_configuration_is_what_the_stream_would_tell() {
    let shape = shapes().into_iter().find(|shape| shape.name == "two-policies").unwrap();
    let Verdict::Inject(injected) = shape.verdict() else { panic!() };
    let stamped = injected.pod["metadata"]["annotations"][CONFIGURATION].as_str().unwrap();
    let Configuration { term, policies } = serde_json::from_str(stamped).unwrap();
    assert_eq!((term, policies.len()), (0, 2), "every leader's term is above");
    for policy in policies {
        let spec = policy.spec.unwrap();
        assert_eq!(spec.get("selector"), None);
        let document = json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
            "metadata": { "name": policy.name, "namespace": policy.namespace }, "spec": spec,
        });
        assert_eq!(resolve_value(document).unwrap().revision, policy.revision, "the sidecar arrives at the same");
    }
}

fn shown(verdict: Verdict) -> String {
    let value = match verdict {
        Verdict::Inject(mut injected) => {
            let stamped = &mut injected.pod["metadata"]["annotations"][CONFIGURATION];
            *stamped = outline(stamped.as_str().unwrap()).into();
            json!({ "warnings": injected.warnings, "pod": injected.pod })
        }
        Verdict::Skip(reason) => json!({ "skip": format!("{reason:?}") }),
        Verdict::Deny(sentence) => json!({ "deny": sentence }),
    };
    serde_yaml::to_string(&value).unwrap()
}

#[test]
fn pods_become_what_the_golden_files_say() {
    let mut wrong = Vec::new();
    for shape in shapes() {
        let after = shown(shape.verdict());
        if std::env::var_os("POOLKEEPER_BLESS").is_some() {
            fs::write(&shape.path, format!("{}{SEPARATOR}{after}", shape.text)).unwrap();
        } else if after != shape.expected {
            wrong.push(format!("--- {} ---\n{after}", shape.name));
        }
    }
    assert!(wrong.is_empty(), "{} files differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn injecting_twice_is_injecting_once() {
    for shape in shapes() {
        let Verdict::Inject(once) = shape.verdict() else { continue };
        let Verdict::Inject(twice) = inject_into(&once.pod, shape.namespace_asks, &shape.settings) else {
            panic!("{}: not injected again", shape.name)
        };
        assert_eq!(once, twice, "{}", shape.name);
    }
}

/// Another image, another socket, other Secrets: nothing of the earlier injection is left.
#[test]
fn an_earlier_injection_is_replaced() {
    for shape in shapes() {
        let mut earlier = shape.settings.clone();
        earlier.image = "poolkeeper:0.0.1".into();
        earlier.http_port = 9999;
        let Verdict::Inject(old) = inject_into(&shape.pod, shape.namespace_asks, &earlier) else { continue };
        // One wants the port of today's HTTP endpoints.
        let Verdict::Inject(fresh) = shape.verdict() else { continue };
        let Verdict::Inject(renewed) = inject_into(&old.pod, shape.namespace_asks, &shape.settings) else {
            panic!("{}: not injected again", shape.name)
        };
        assert_eq!(renewed, fresh, "{}", shape.name);
    }
}

/// As when a policy that names other Secrets and another directory takes the place of the first.
#[test]
fn an_injection_for_another_policy_is_replaced() {
    let mut pod = shapes().into_iter().find(|shape| shape.name == "init-containers").unwrap().pod;
    let fresh = |pod: &Value| match inject_into(pod, false, &settings()) {
        Verdict::Inject(injected) => injected,
        other => panic!("{other:?}"),
    };
    let first = fresh(&pod);
    pod["metadata"]["labels"]["poolkeeper.dev/policy"] = "elsewhere".into();
    let second = fresh(&pod);
    let mut moved = first.pod.clone();
    moved["metadata"]["labels"]["poolkeeper.dev/policy"] = "elsewhere".into();
    assert_eq!(fresh(&moved), second);
    assert_ne!(first.pod["spec"]["volumes"], second.pod["spec"]["volumes"]);
}

/// A mirror of images, a LimitRange, another webhook: what they changed of the sidecar stays when we are asked again, and
/// containers that came after us are connected.
#[test]
fn what_others_change_stays() {
    let shape = shapes().into_iter().find(|shape| shape.name == "plain").unwrap();
    let Verdict::Inject(once) = shape.verdict() else { panic!() };
    let mut pod = once.pod;
    pod["spec"]["initContainers"][0]["image"] = "mirror.example/poolkeeper:0.1.0".into();
    pod["spec"]["initContainers"][0]["resources"]["limits"]["cpu"] = "1".into();
    let sidecar = pod["spec"]["initContainers"][0].clone();
    let others = json!([{ "name": "proxy", "image": "proxy", "restartPolicy": "Always" }, sidecar]);
    pod["spec"]["initContainers"] = others;
    let Verdict::Inject(again) = inject_into(&pod, false, &shape.settings) else { panic!() };
    let init = again.pod["spec"]["initContainers"].as_array().unwrap();
    assert_eq!((&init[0], &init[1]["name"], init.len()), (&sidecar, &json!("proxy"), 2), "first again, and as it was");
    assert_eq!(init[1]["volumeMounts"][0]["mountPath"], "/run/poolkeeper");
    assert_eq!(again.pod["spec"]["volumes"], pod["spec"]["volumes"]);
}

#[test]
fn without_an_authority_no_pod_is_made() {
    let shape = shapes().into_iter().find(|shape| shape.name == "plain").unwrap();
    let early = Settings { ca: String::new(), ..shape.settings };
    let verdict = inject_into(&shape.pod, false, &early);
    assert!(matches!(&verdict, Verdict::Deny(sentence) if sentence.ends_with("try again")), "{verdict:?}");
}

#[test]
fn the_sidecar_passes_the_restricted_standard_in_every_shape() {
    let mut seen = 0;
    for shape in shapes() {
        let Verdict::Inject(injected) = shape.verdict() else { continue };
        assert_eq!(pss::sidecar(&injected.pod), Vec::<String>::new(), "{}", shape.name);
        let before = pss::violations(&shape.pod);
        assert_eq!(pss::violations(&injected.pod), before, "{}: injection adds none", shape.name);
        seen += 1;
    }
    assert!(seen >= 20, "{seen} shapes");
}
