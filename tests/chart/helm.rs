//! helm, from `tests/cluster`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

/// A file or folder of the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML stream, empty ones left out.
pub fn documents(text: &str) -> Vec<Value> {
    let all = serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
    all.filter(|document| !document.is_null()).collect()
}

/// The program; the first time it is built, which takes some minutes.
fn program() -> &'static Path {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    HELM.get_or_init(|| {
        let out = Command::new(file("tests/cluster/build")).arg("helm").stderr(Stdio::inherit()).output().unwrap();
        assert!(out.status.success(), "tests/cluster/build helm failed (above)");
        String::from_utf8(out.stdout).unwrap().trim().into()
    })
}

/// Runs helm in the repository's root, with its caches in `home` and, if there is one, for the cluster of `kubeconfig`.
pub fn run(home: &Path, kubeconfig: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.current_dir(file("")).args(arguments).stdin(Stdio::null());
    for (name, folder) in [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")] {
        command.env(name, home.join(folder));
    }
    command.env("KUBECONFIG", kubeconfig.unwrap_or(Path::new("/dev/null")));
    command.output().unwrap()
}

/// The same without a cluster; what it printed, or what it complained of.
pub fn offline(arguments: &[&str]) -> Result<String, String> {
    let home = tempfile::tempdir().unwrap();
    let out = run(home.path(), None, arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

/// What the chart renders with these options, in namespace `poolkeeper`.
pub fn template(options: &[&str]) -> Result<String, String> {
    let always = ["template", "poolkeeper", "charts/poolkeeper", "--namespace", "poolkeeper"];
    offline(&[&always, options].concat())
}
