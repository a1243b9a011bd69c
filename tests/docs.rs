//! What is generated from the types and checked in is up to date. `POOLKEEPER_BLESS=1 cargo test --test docs` writes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// What the command prints.
fn printed(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_poolkeeper")).arg(command).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Holds a file of the repository against what it should be, or writes it.
fn hold(file: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("POOLKEEPER_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, wanted).unwrap();
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    let differs = is.lines().zip(wanted.lines()).find(|(is, wanted)| is != wanted);
    assert!(
        is == wanted,
        "{file} is not what the types say (POOLKEEPER_BLESS=1 cargo test --test docs writes it); first difference: {differs:#?}"
    );
}

#[test]
fn the_crd_is_up_to_date() {
    hold("crds/dbpoolpolicies.poolkeeper.dev.yaml", &printed("crd"));
}

#[test]
fn the_table_of_settings_is_up_to_date() {
    hold("docs/settings.md", &printed("docs"));
}

#[test]
fn the_readmes_table_is_up_to_date() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap_or_default();
    let (begin, end) = ("<!-- settings:begin -->\n", "<!-- settings:end -->");
    let Some((before, rest)) = readme.split_once(begin) else { return };
    let (_, after) = rest.split_once(end).expect("the README's settings have a beginning and no end");
    // Without the page's own heading.
    let table: String = printed("docs").split_inclusive('\n').filter(|line| !line.starts_with("# ")).collect();
    hold("README.md", &format!("{before}{begin}{table}{end}{after}"));
}

/// docs/session-state.md names a test for every row, and every test that it names is there.
#[test]
fn the_table_of_session_state_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: String| fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let operations: String = fs::read_dir(root.join("tests/isolation/operations"))
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let page = read("docs/session-state.md".into());
    let table = page.split("| tested by |\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let rows: Vec<_> = table.lines().skip(1).collect();
    assert!(rows.len() > 20);
    for row in rows {
        let tests: Vec<_> = row.trim_matches('|').rsplit('|').next().unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let (suite, name) = test.split_once(' ').unwrap_or(("", test));
            let (module, function) = name.rsplit_once("::").unwrap_or(("", name));
            let there = match suite {
                "isolation" if module.is_empty() => operations.contains(&format!("er({name}, ")),
                "" => {
                    let file = module.trim_end_matches("::tests").replace("::", "/");
                    let apart = root.join(format!("src/{file}/tests.rs"));
                    let source = fs::read_to_string(apart).unwrap_or_else(|_| read(format!("src/{file}.rs")));
                    source.contains(&format!("fn {function}()"))
                }
                suite => read(format!("tests/{suite}/{module}.rs")).contains(&format!("fn {function}()")),
            };
            assert!(there, "{test} does not exist");
        }
    }
}
