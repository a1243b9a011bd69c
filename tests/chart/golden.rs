//! Golden files: `tests/golden/chart/NAME.values.yaml` are values, `NAME.yaml` is what the chart makes of them.
//! `POOLKEEPER_BLESS=1 cargo test --test chart golden` writes the latter anew: read the difference before you commit it.

use std::fs;

use super::helm::{documents, file, offline, read, template};

/// What stands in the chart as files of its own is named here, not repeated. Each must be in there as it is.
fn without_files(mut rendered: String, everything: bool) -> String {
    for folder in ["crds", "alerts", "dashboards"] {
        let Ok(entries) = fs::read_dir(file("charts/poolkeeper/files").join(folder)) else { continue };
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            // The CRD gets metadata of its own.
            let text = if folder == "crds" { text.split_once("\nspec:\n").unwrap().1 } else { &text };
            let depth = match folder {
                "crds" => 0,
                "alerts" => 2,
                _ => 4,
            };
            let indented: Vec<_> = text.trim_end().lines().map(|line| format!("{:depth$}{line}", "")).collect();
            let (indented, name) = (indented.join("\n"), path.file_name().unwrap().to_str().unwrap());
            let there = rendered.contains(&indented);
            assert_eq!(there, everything || folder == "crds", "files/{folder}/{name} in what is rendered");
            rendered = rendered.replace(&indented, &format!("{:depth$}# files/{folder}/{name}", ""));
        }
    }
    rendered
}

#[test]
fn the_chart_renders_what_the_golden_files_say() {
    let folder = file("tests/golden/chart");
    let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.filter_map(|name| Some(name.strip_suffix(".values.yaml")?.to_owned())).collect();
    names.sort();
    assert_eq!(names, ["default", "everything", "minimal"]);
    for name in names {
        let values = folder.join(format!("{name}.values.yaml"));
        let rendered = template(&["--values", values.to_str().unwrap()]).unwrap();
        let rendered = if name == "minimal" { rendered } else { without_files(rendered, name == "everything") };
        let path = folder.join(format!("{name}.yaml"));
        if std::env::var_os("POOLKEEPER_BLESS").is_some() {
            fs::write(&path, &rendered).unwrap();
        }
        let is = fs::read_to_string(&path).unwrap_or_default();
        let differs = is.lines().zip(rendered.lines()).find(|(is, rendered)| is != rendered);
        assert!(is == rendered, "tests/golden/chart/{name}.yaml differs (POOLKEEPER_BLESS=1 writes it): {differs:#?}");
    }
}

#[test]
fn helm_finds_nothing_to_complain_of() {
    let all = ["default", "everything", "minimal"].map(|name| format!("tests/golden/chart/{name}.values.yaml"));
    for values in all {
        offline(&["lint", "--strict", "charts/poolkeeper", "--values", &values]).unwrap();
    }
}

/// The chart, the crate and the copies of the CRD are of one version.
#[test]
fn versions_and_copies_agree() {
    let chart = documents(&read("charts/poolkeeper/Chart.yaml")).remove(0);
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    let crd = "crds/dbpoolpolicies.poolkeeper.dev.yaml";
    assert!(read(crd) == read(&format!("charts/poolkeeper/files/{crd}")), "make crd");
}

/// It would be taken from the leader's write by a server-side apply.
#[test]
fn the_ca_bundle_is_never_rendered() {
    for values in ["default", "everything", "minimal"] {
        let rendered = template(&["--values", &format!("tests/golden/chart/{values}.values.yaml")]).unwrap();
        let webhooks = documents(&rendered).into_iter().filter(|document| document["webhooks"].is_array());
        let clients: Vec<_> = webhooks.flat_map(|document| document["webhooks"].as_array().cloned().unwrap()).collect();
        assert_eq!(clients.len(), 3);
        for webhook in clients {
            assert!(webhook["clientConfig"].get("caBundle").is_none(), "{webhook:#}");
        }
    }
}

/// The same commands for whatever release and namespace.
#[test]
fn the_notes_say_what_comes_next() {
    let home = tempfile::tempdir().unwrap();
    let out = super::helm::run(
        home.path(),
        None,
        &["install", "pk", "charts/poolkeeper", "--namespace", "db", "--dry-run=client"],
    );
    let text = String::from_utf8(out.stdout).unwrap();
    let notes = text.split_once("NOTES:").expect("no notes").1;
    for part in [
        "kubectl -n db rollout status deployment/poolkeeper-operator",
        "get dbpool",
        "helm uninstall pk -n db",
        "NO\nsidecar",
        "kubectl delete crd/dbpoolpolicies.poolkeeper.dev namespace/db",
    ] {
        assert!(notes.contains(part), "{part:?} is not in:\n{notes}");
    }
}
