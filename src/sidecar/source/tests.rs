#![allow(clippy::unwrap_used)]
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use tokio::sync::watch::Receiver;

use super::*;

/// How long anything may take here; nothing takes a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory with a policy file and a Secret, and the source that reads them.
struct Bed {
    dir: tempfile::TempDir,
    source: Source,
    state: Receiver<State>,
}

fn yaml(name: &str, size: u32) -> String {
    format!(
        "apiVersion: poolkeeper.dev/v1alpha1\nkind: DbPoolPolicy\nmetadata: {{ name: {name} }}\nspec:\n  database:\n    \
         host: h\n    name: {name}\n    credentials: {{ secretName: db }}\n    tls: {{ mode: Disable }}\n  \
         pool: {{ size: {size} }}\n"
    )
}

fn secret(dir: &Path, name: &str, user: &str, password: &str) {
    let secret = dir.join("secrets").join(name);
    fs::create_dir_all(&secret).unwrap();
    fs::write(secret.join("username"), user).unwrap();
    fs::write(secret.join("password"), password).unwrap();
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("pk-source-").tempdir().unwrap();
    fs::create_dir(dir.path().join("policies")).unwrap();
    fs::write(dir.path().join("policies/a.yaml"), yaml("a", 1)).unwrap();
    secret(dir.path(), "db", "app", "one\n");
    dir
}

impl Bed {
    /// Reads `policies` below the directory.
    fn open(dir: tempfile::TempDir, policies: &str) -> Self {
        let source =
            Source::open(Some(dir.path().join(policies)), Some(dir.path().join("secrets")), Environment::default());
        let source = source.unwrap();
        let state = source.subscribe();
        Self { dir, source, state }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Waits until the state is as it should be.
    #[track_caller]
    fn eventually(&self, what: impl Fn(&State) -> bool) -> State {
        let end = Instant::now() + PATIENCE;
        loop {
            let state = self.state.borrow().clone();
            if what(&state) {
                return state;
            }
            assert!(Instant::now() < end, "still {state:#?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[track_caller]
    fn has_size(&self, size: u32) -> State {
        self.eventually(|state| sizes(state) == [size])
    }
}

fn sizes(state: &State) -> Vec<u32> {
    state.snapshot.policies.iter().map(|policy| policy.resolved.pool.settings().size).collect()
}

fn findings(error: Result<Source, Vec<Finding>>) -> Vec<String> {
    error.unwrap_err().iter().map(|finding| finding.problem.to_string()).collect()
}

#[test]
fn a_plain_save_arrives() {
    let bed = Bed::open(folder(), "policies/a.yaml");
    for size in 2..20 {
        fs::write(bed.path("policies/a.yaml"), yaml("a", size)).unwrap();
        bed.has_size(size);
    }
    let state = bed.state.borrow().clone();
    assert_eq!((state.accepted, state.rejected, state.rejection.is_none()), (19, 0, true));
}

#[test]
fn an_atomic_rename_arrives() {
    let bed = Bed::open(folder(), "policies/a.yaml");
    for size in 2..20 {
        fs::write(bed.path("new"), yaml("a", size)).unwrap();
        fs::rename(bed.path("new"), bed.path("policies/a.yaml")).unwrap();
        bed.has_size(size);
    }
}

#[test]
fn an_editors_backup_and_new_file_arrive() {
    let bed = Bed::open(folder(), "policies/a.yaml");
    fs::rename(bed.path("policies/a.yaml"), bed.path("policies/a.yaml~")).unwrap();
    fs::write(bed.path("policies/a.yaml"), yaml("a", 2)).unwrap();
    let state = bed.has_size(2);
    assert!(!state.snapshot.policies[0].orphaned);
}

/// As the kubelet does it.
fn mount(dir: &Path, version: &str, size: u32) {
    fs::create_dir_all(dir.join(version)).unwrap();
    fs::write(dir.join(version).join("a.yaml"), yaml("a", size)).unwrap();
    symlink(version, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[test]
fn the_swap_of_a_configmaps_link_arrives_for_file_and_directory() {
    for policies in ["mount/a.yaml", "mount"] {
        let dir = folder();
        mount(&dir.path().join("mount"), "..1", 1);
        symlink("..data/a.yaml", dir.path().join("mount/a.yaml")).unwrap();
        let bed = Bed::open(dir, policies);
        for size in 2..6 {
            mount(&bed.path("mount"), &format!("..{size}"), size);
            fs::remove_dir_all(bed.path(&format!("mount/..{}", size - 1))).unwrap();
            bed.has_size(size);
        }
    }
}

#[test]
fn the_swap_of_a_link_above_arrives() {
    let dir = folder();
    fs::create_dir(dir.path().join("v2")).unwrap();
    fs::write(dir.path().join("v2/a.yaml"), yaml("a", 2)).unwrap();
    symlink("policies", dir.path().join("current")).unwrap();
    let bed = Bed::open(dir, "current/a.yaml");
    symlink("v2", bed.path("next")).unwrap();
    fs::rename(bed.path("next"), bed.path("current")).unwrap();
    bed.has_size(2);
    fs::write(bed.path("v2/a.yaml"), yaml("a", 3)).unwrap();
    bed.has_size(3);
}

#[test]
fn a_file_that_is_written_slowly_is_not_refused() {
    let bed = Bed::open(folder(), "policies/a.yaml");
    // A machine under load may stop the writer for longer than the source waits; it does not every time.
    let clean = (2..12).any(|size| {
        let before = bed.state.borrow().rejected;
        let mut file = fs::File::create(bed.path("policies/a.yaml")).unwrap();
        let text = yaml("a", size);
        for piece in text.as_bytes().chunks(text.len() / 4 + 1) {
            file.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(45));
        }
        drop(file);
        bed.has_size(size).rejected == before
    });
    assert!(clean);
}

#[test]
fn what_is_wrong_changes_nothing_and_is_told_once() {
    let bed = Bed::open(folder(), "policies/a.yaml");
    let wrong = yaml("a", 9).replace("size: 9", "size: x, minIdle: -1");
    fs::write(bed.path("policies/a.yaml"), wrong).unwrap();
    let state = bed.eventually(|state| state.rejection.is_some());
    let paths: Vec<_> = state.rejection.unwrap().findings.iter().map(|finding| finding.problem.path.clone()).collect();
    assert_eq!(paths, ["spec.pool.minIdle", "spec.pool.size"]);
    assert_eq!((sizes(&bed.state.borrow()), state.accepted, state.rejected), (vec![1], 1, 1));
    bed.source.reload();
    fs::write(bed.path("policies/a.yaml"), yaml("a", 1)).unwrap();
    let state = bed.eventually(|state| state.rejection.is_none());
    assert_eq!((sizes(&state), state.accepted, state.rejected), (vec![1], 2, 1));
}

#[test]
fn one_wrong_file_of_a_directory_holds_back_all() {
    let bed = Bed::open(folder(), "policies");
    fs::write(bed.path("policies/b.yaml"), "nonsense").unwrap();
    let state = bed.eventually(|state| state.rejection.is_some());
    assert!(state.rejection.unwrap().findings[0].file.ends_with("b.yaml"));
    fs::write(bed.path("policies/a.yaml"), yaml("a", 7)).unwrap();
    fs::write(bed.path("policies/b.yaml"), yaml("b", 8)).unwrap();
    bed.eventually(|state| sizes(state) == [7, 8] && state.rejection.is_none());
}

#[test]
fn policies_that_cannot_be_served_together_are_refused_by_both_names() {
    let dir = folder();
    let b = yaml("b", 2).replace("name: b\n", "name: a\n");
    let b = b.replace("  pool:", "  listen: { port: 1 }\n  shutdown: { grace: 1s }\n  pool:");
    fs::write(dir.path().join("policies/b.yaml"), b).unwrap();
    let policies = dir.path().join("policies");
    let found = findings(Source::open(Some(policies), Some(dir.path().join("secrets")), Environment::default()));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("spec.database.alias") && found[0].contains("default/a and default/b"), "{found:?}");
    assert!(found[1].starts_with("spec.listen.port") && found[2].starts_with("spec.shutdown.grace"), "{found:?}");
}

#[test]
fn a_policy_that_goes_is_served_on_until_another_takes_its_name() {
    let bed = Bed::open(folder(), "policies");
    fs::write(bed.path("policies/b.yaml"), yaml("b", 2)).unwrap();
    bed.eventually(|state| sizes(state) == [1, 2]);
    fs::remove_file(bed.path("policies/a.yaml")).unwrap();
    let state = bed.eventually(|state| state.snapshot.policies[0].orphaned);
    assert_eq!((sizes(&state), state.rejected), (vec![1, 2], 0));
    fs::remove_file(bed.path("policies/b.yaml")).unwrap();
    let state = bed.eventually(|state| state.snapshot.policies.iter().all(|policy| policy.orphaned));
    assert_eq!(state.snapshot.policies.len(), 2);
    fs::write(bed.path("policies/c.yaml"), yaml("c", 3).replace("    name: c", "    name: a")).unwrap();
    let state = bed.eventually(|state| state.snapshot.policies.len() == 2 && sizes(state).contains(&3));
    let shown: Vec<_> = state.snapshot.policies.iter().map(|p| (p.resolved.name.as_str(), p.orphaned)).collect();
    assert_eq!(shown, [("b", true), ("c", false)]);
}

#[test]
fn a_new_password_arrives_and_the_old_one_is_kept_for_a_while() {
    let bed = Bed::open(folder(), "policies/a.yaml");
    let credentials = |state: &State| Arc::clone(&state.snapshot.policies[0].credentials);
    let first = credentials(&bed.state.borrow());
    assert_eq!((first.user.as_str(), first.password.expose(), &first.previous), ("app", "one", &None));
    fs::write(bed.path("secrets/db/password"), "two").unwrap();
    let state = bed.eventually(|state| credentials(state).password.expose() == "two");
    let previous = credentials(&state).previous.clone().unwrap();
    assert_eq!((previous.user.as_str(), previous.password.expose()), ("app", "one"));
    let left = previous.until - Instant::now();
    assert!(left <= OVERLAP && left > OVERLAP - PATIENCE);
    let resolved = Arc::clone(&state.snapshot.policies[0].resolved);
    fs::write(bed.path("policies/a.yaml"), yaml("a", 2)).unwrap();
    let state = bed.has_size(2);
    assert!(Arc::ptr_eq(&credentials(&state), &credentials(&bed.state.borrow())));
    assert_eq!(credentials(&state).previous.as_ref(), Some(&previous), "another change of the policy forgets nothing");
    assert_ne!(state.snapshot.policies[0].resolved.revision, resolved.revision);
}

#[test]
fn a_secret_mounted_by_kubernetes_is_read_anew_when_its_link_is_swapped() {
    let dir = folder();
    let secret = dir.path().join("secrets/db");
    fs::remove_dir_all(&secret).unwrap();
    let mount = |version: &str, password: &str| {
        fs::create_dir_all(secret.join(version)).unwrap();
        fs::write(secret.join(version).join("username"), "app").unwrap();
        fs::write(secret.join(version).join("password"), password).unwrap();
        symlink(version, secret.join("..tmp")).unwrap();
        fs::rename(secret.join("..tmp"), secret.join("..data")).unwrap();
    };
    mount("..1", "one");
    symlink("..data/username", secret.join("username")).unwrap();
    symlink("..data/password", secret.join("password")).unwrap();
    let bed = Bed::open(dir, "policies");
    mount("..2", "two");
    bed.eventually(|state| state.snapshot.policies[0].credentials.password.expose() == "two");
}

#[test]
fn a_refused_policy_does_not_hold_back_a_new_password() {
    let bed = Bed::open(folder(), "policies/a.yaml");
    fs::write(bed.path("policies/a.yaml"), "nonsense").unwrap();
    bed.eventually(|state| state.rejection.is_some());
    fs::write(bed.path("secrets/db/password"), "two").unwrap();
    let state = bed.eventually(|state| state.snapshot.policies[0].credentials.password.expose() == "two");
    assert_eq!((sizes(&state), state.rejected, state.rejection.is_some()), (vec![1], 1, true));
}

#[test]
fn a_secret_that_goes_is_refused_and_what_was_read_stays() {
    let bed = Bed::open(folder(), "policies");
    fs::remove_file(bed.path("secrets/db/password")).unwrap();
    let state = bed.eventually(|state| state.rejection.is_some());
    assert_eq!(state.snapshot.policies[0].credentials.password.expose(), "one");
    fs::write(bed.path("secrets/db/password"), "three").unwrap();
    bed.eventually(|state| state.rejection.is_none());
}

#[test]
fn the_first_configuration_must_be_right() {
    let dir = folder();
    let open = |policies: &str, secrets: Option<&str>| {
        let path = |below: &str| dir.path().join(below);
        findings(Source::open(Some(path(policies)), secrets.map(path), Environment::default()))
    };
    assert!(open("nowhere", None)[0].contains("holds no policy"));
    let found = open("policies", None);
    assert!(found.len() == 2 && found[0].starts_with("spec.database.credentials.secretName"), "{found:?}");
    assert!(found[0].contains("db") && found[0].contains("--secrets-dir"), "{found:?}");
    assert_eq!(open("policies", Some("elsewhere")).len(), 2);
    fs::write(dir.path().join("policies/a.yaml"), "# nothing\n").unwrap();
    assert!(open("policies/a.yaml", None)[0].contains("holds no policy"));
    let none = findings(Source::open(None, None, Environment::default()));
    assert!(none[0].starts_with("DATABASE_URL") && none[0].contains("--policy"), "{none:?}");
}

#[test]
fn the_environment_gives_credentials_to_a_policy_without() {
    let dir = folder();
    let text = yaml("a", 4).replace("    credentials: { secretName: db }\n", "");
    fs::write(dir.path().join("policies/a.yaml"), text).unwrap();
    let policies = || Some(dir.path().join("policies"));
    let found = findings(Source::open(policies(), None, Environment::default()));
    assert!(found[0].contains("DATABASE_URL") && found[0].contains("secretName"), "{found:?}");
    let environment =
        |url: &'static str| Environment::from_lookup(move |name| (name == "DATABASE_URL").then(|| url.to_owned()));
    let found = findings(Source::open(policies(), None, environment("postgres://app@h/d")));
    assert!(found[0].contains("no password"), "{found:?}");
    let source = Source::open(policies(), None, environment("postgres://app:secret@elsewhere/d")).unwrap();
    let state = source.subscribe().borrow().clone();
    assert_eq!(sizes(&state), [4]);
    assert_eq!(state.snapshot.policies[0].credentials.user, "app");
    assert_eq!(state.snapshot.policies[0].resolved.database.host, "h");
}

#[test]
fn trust_needs_no_password() {
    let dir = folder();
    fs::remove_file(dir.path().join("secrets/db/password")).unwrap();
    let text = yaml("a", 4).replace("  pool:", "  listen: { auth: Trust }\n  pool:");
    fs::write(dir.path().join("policies/a.yaml"), text).unwrap();
    let bed = Bed::open(dir, "policies");
    assert_eq!(bed.state.borrow().snapshot.policies[0].credentials.password.expose(), "");
}

#[test]
fn certificates_are_checked_before_they_are_used() {
    let dir = folder();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = dir.path().join("secrets/tls");
    fs::create_dir(&tls).unwrap();
    fs::write(tls.join("tls.crt"), pair.cert.pem()).unwrap();
    fs::write(tls.join("tls.key"), pair.signing_key.serialize_pem()).unwrap();
    fs::write(dir.path().join("secrets/db/ca.crt"), "nonsense").unwrap();
    let text = yaml("a", 4).replace("mode: Disable", "mode: VerifyFull");
    let text = text.replace("  pool:", "  listen: { tls: { secretName: tls, clientCaSecretName: tls } }\n  pool:");
    fs::write(dir.path().join("policies/a.yaml"), text).unwrap();
    let open =
        || Source::open(Some(dir.path().join("policies")), Some(dir.path().join("secrets")), Environment::default());
    let found = findings(open());
    assert!(found.len() == 2 && found[0].contains("db/ca.crt") && found[1].contains("tls/ca.crt"), "{found:?}");
    fs::write(dir.path().join("secrets/db/ca.crt"), pair.cert.pem()).unwrap();
    fs::write(tls.join("ca.crt"), pair.cert.pem()).unwrap();
    let source = open().unwrap();
    let state = source.subscribe();
    let snapshot = Arc::clone(&state.borrow().snapshot);
    assert!(snapshot.tls.as_ref().unwrap().client_ca.is_some());
    assert!(snapshot.policies[0].credentials.ca_pem.is_some());
    assert!(!format!("{snapshot:?}").contains("PRIVATE"));
    let bed = Bed { dir, source, state };
    fs::write(bed.path("secrets/tls/tls.key"), other.signing_key.serialize_pem()).unwrap();
    let state = bed.eventually(|state| state.rejection.is_some());
    assert_eq!(state.snapshot.tls, snapshot.tls, "a key that does not go with the certificate is not used");
    fs::write(bed.path("secrets/tls/tls.crt"), other.cert.pem()).unwrap();
    let state = bed.eventually(|state| state.rejection.is_none());
    assert_ne!(state.snapshot.tls, snapshot.tls);
}

#[test]
fn a_reload_reads_what_inotify_did_not_tell() {
    let bed = Bed::open(folder(), "policies/a.yaml");
    bed.source.reload();
    fs::write(bed.path("policies/a.yaml"), yaml("a", 2)).unwrap();
    bed.source.reload();
    bed.has_size(2);
}

#[test]
fn what_is_no_file_is_refused_without_waiting_for_it() {
    let dir = folder();
    fs::remove_file(dir.path().join("policies/a.yaml")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("policies/a.yaml")).unwrap();
    let found = findings(Source::open(Some(dir.path().join("policies")), None, Environment::default()));
    assert!(found[0].contains("cannot be read: not a regular file"), "{found:?}");
    drop(socket);
}

#[test]
fn too_long_a_file_is_refused() {
    let dir = folder();
    let file = fs::File::create(dir.path().join("policies/a.yaml")).unwrap();
    file.set_len(1 << 30).unwrap();
    let found = findings(Source::open(Some(dir.path().join("policies")), None, Environment::default()));
    assert!(found[0].contains("longer than"), "{found:?}");
}
