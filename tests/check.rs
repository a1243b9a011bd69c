//! `poolkeeper check` as a user runs it: what it says, and its exit status.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const GOOD: &str = "apiVersion: poolkeeper.dev/v1alpha1\nkind: DbPoolPolicy\nmetadata: { name: orders }\n\
                    spec: { preset: Development, database: { host: h, name: d } }\n";

/// Runs `poolkeeper check` in a folder: exit status, what it said, what it complained of.
fn check(folder: &Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poolkeeper"));
    command.arg("check").args(arguments).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that doesn't read its input may be gone.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("pk-check-").tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn a_right_policy_is_exit_0() {
    let folder = folder(&[("a.yaml", GOOD)]);
    assert_eq!(check(folder.path(), &["a.yaml"], ""), (0, "1 policy, no problem\n".into(), String::new()));
    assert_eq!(check(folder.path(), &["-"], GOOD), (0, "1 policy, no problem\n".into(), String::new()));
}

#[test]
fn every_problem_is_a_line_and_exit_1() {
    let bad = GOOD.replace("name: d }", "name: d, port: 0 }, pool: { size: many, minIdel: 1 }");
    let folder = folder(&[("a.yaml", GOOD), ("b.yaml", &bad)]);
    let (code, out, _) = check(folder.path(), &["a.yaml", "b.yaml"], "");
    assert_eq!(code, 1);
    let lines: Vec<_> = out.lines().map(|line| line.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(lines, ["b.yaml: spec.database.port", "b.yaml: spec.pool.minIdel", "b.yaml: spec.pool.size"], "{out}");
    // With --resolved too, nothing but the problems is said.
    assert_eq!(check(folder.path(), &["--resolved", "a.yaml", "b.yaml"], ""), (1, out, String::new()));
}

#[test]
fn what_cannot_be_read_is_exit_2_and_hides_no_problem() {
    let folder = folder(&[("b.yaml", "kind: x")]);
    let (code, out, err) = check(folder.path(), &["nowhere.yaml", "b.yaml"], "");
    assert_eq!(code, 2);
    assert!(err.starts_with("nowhere.yaml: cannot be read: "), "{err}");
    assert!(out.contains("b.yaml: kind: "), "{out}");
    fs::write(folder.path().join("c.yaml"), [0xff, 0xfe]).unwrap();
    assert_eq!(check(folder.path(), &["c.yaml"], "").0, 2);
    assert_eq!(check(folder.path(), &[], "").0, 2, "no file at all is a wrong use");
}

#[test]
fn a_directory_is_checked_as_one_sidecar_would_serve_it() {
    let other = GOOD.replace("orders", "other").replace("name: d }", "name: d }, listen: { port: 1 }");
    let folder = folder(&[("a.yaml", GOOD), ("b.yml", &other), (".c.yaml", "nonsense"), ("d.txt", "nonsense")]);
    let (code, out, _) = check(folder.path(), &["."], "");
    assert_eq!((code, out.lines().count()), (1, 2), "{out}");
    assert!(out.contains("./b.yml: spec.database.alias") && out.contains("default/orders and default/other"), "{out}");
    assert!(out.contains("./b.yml: spec.listen.port"), "{out}");
    // Named one by one they are for different sidecars.
    assert_eq!(check(folder.path(), &["a.yaml", "b.yml"], "").1, "2 policies, no problem\n");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(check(empty.path(), &["."], "").0, 1);
}

#[test]
fn documents_of_one_file_are_told_apart() {
    let folder = folder(&[("a.yaml", &format!("{GOOD}---\n{}", GOOD.replace("host: h", "host: 1")))]);
    let (code, out, _) = check(folder.path(), &["a.yaml"], "");
    assert_eq!(
        (code, out.as_str()),
        (1, "a.yaml (document 2): spec.database.host: 1 is a number: put it in quotes, \"1\"\n")
    );
}

#[test]
fn resolved_shows_the_effective_values() {
    let folder = folder(&[("a.yaml", GOOD)]);
    let (code, out, _) = check(folder.path(), &["--resolved", "a.yaml"], "");
    assert_eq!(code, 0);
    for line in [
        "    size: 5",
        "    maxOverflow: 5",
        "    recycle: 1h",
        "    acquire: 30s",
        "    alias: d",
        "    mode: VerifyFull",
    ] {
        assert!(out.lines().any(|is| is == line || is == format!("  {line}")), "{line} is not in\n{out}");
    }
    // What is printed is a policy, and the same one.
    assert_eq!(check(folder.path(), &["-"], &out).0, 0);
    let revision = |text: &str| text.lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(revision(&out), revision(&check(folder.path(), &["--resolved", "-"], &out).1));
}

#[test]
fn json_says_the_same() {
    let folder = folder(&[("a.yaml", GOOD), ("b.yaml", "kind: x")]);
    let json = |arguments: &[&str]| {
        let (code, out, _) = check(folder.path(), arguments, "");
        (code, serde_json::from_str::<serde_json::Value>(&out).unwrap())
    };
    let (code, value) = json(&["-o", "json", "--resolved", "a.yaml"]);
    assert_eq!(
        (code, &value["policies"], &value["resolved"][0]["policy"]["spec"]["pool"]["size"]),
        (0, &1.into(), &5.into())
    );
    let (code, value) = json(&["-o", "json", "b.yaml"]);
    assert_eq!(
        (code, &value["problems"][0]["file"], &value["problems"][0]["path"]),
        (1, &"b.yaml".into(), &"apiVersion".into())
    );
}
