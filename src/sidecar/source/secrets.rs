//! Credentials and certificates, from the directory of mounted Secrets or from `DATABASE_URL`.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::environment::Login;
use super::{Credentials, Fault, ListenFiles, OVERLAP, Previous, files};
use crate::api::resolve::{Auth, CredentialsSource, ListenTls, Problem, Resolved};
use crate::contract::ReferenceState;
use crate::pg::auth::Secret;

/// The longest user name: PostgreSQL cuts longer ones (NAMEDATALEN - 1).
const MAX_USER: usize = 63;
/// The longest password, in bytes; tokens of cloud providers have a few kilobytes.
const MAX_PASSWORD: usize = 16 * 1024;
/// The longest file of certificates, in bytes.
const MAX_CERTIFICATES: usize = 1 << 20;

const SECRET_NAME: &str = "spec.database.credentials.secretName";
const CA_SECRET_NAME: &str = "spec.database.tls.caSecretName";
const LISTEN_SECRET_NAME: &str = "spec.listen.tls.secretName";
const LISTEN_CA_SECRET_NAME: &str = "spec.listen.tls.clientCaSecretName";

/// A problem and its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong, by the field that asks for it.
    pub problem: Problem,
    /// Of which kind that is.
    pub fault: Fault,
}

impl Trouble {
    /// A Secret that is there holds something that can't be used.
    fn with(state: ReferenceState, field: &str, message: impl Into<String>) -> Self {
        Self { problem: Problem::new(field, message), fault: Fault::Reference { state, mounted: true } }
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self { problem, fault: Fault::Policy }
    }
}

/// Where credentials and certificates come from.
#[derive(Debug)]
pub struct Secrets {
    /// One directory per Secret.
    dir: Option<PathBuf>,
    /// What `DATABASE_URL` says, for policies that name no Secret.
    login: Result<Option<Login>, Problem>,
    /// The system has certificates to trust; looked at once, since reading them takes milliseconds.
    system_roots: OnceCell<()>,
}

impl Secrets {
    /// Nothing is read yet.
    pub fn new(dir: Option<PathBuf>, login: Result<Option<Login>, Problem>) -> Self {
        Self { dir, login, system_roots: OnceCell::new() }
    }

    /// The credentials for a policy, with those that they replace.
    ///
    /// # Errors
    /// Everything that is missing or wrong, by the field that asks for it.
    pub fn credentials(
        &self,
        policy: &Resolved,
        before: Option<&Credentials>,
        now: Instant,
    ) -> Result<Credentials, Vec<Trouble>> {
        let login = self.login(policy);
        let roots = self.server_roots(policy);
        match (login, roots) {
            (Ok((user, password)), Ok(ca_pem)) => {
                let previous = before.and_then(|before| previous(before, &user, &password, now));
                Ok(Credentials { user, password, previous, ca_pem: ca_pem.map(Into::into) })
            }
            (login, roots) => {
                let mut problems = login.err().unwrap_or_default();
                problems.extend(roots.err());
                Err(problems)
            }
        }
    }

    /// Certificate, key and clients' authorities for `listen.tls`.
    ///
    /// # Errors
    /// Everything that is missing or wrong.
    pub fn listen(&self, tls: &ListenTls) -> Result<ListenFiles, Vec<Trouble>> {
        let certificate = self.file(LISTEN_SECRET_NAME, &tls.secret, "tls.crt", MAX_CERTIFICATES);
        let key = self.file(LISTEN_SECRET_NAME, &tls.secret, "tls.key", MAX_CERTIFICATES);
        let client_ca = tls.client_ca.as_ref().map(|secret| self.authorities(LISTEN_CA_SECRET_NAME, secret));
        match (certificate, key, client_ca.transpose()) {
            (Ok(certificate), Ok(key), Ok(client_ca)) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                check_pair(&certificate, &key).map_err(|message| {
                    let message = format!("{}: {message}", tls.secret);
                    vec![Trouble::with(ReferenceState::InvalidCaCertificateRef, LISTEN_SECRET_NAME, message)]
                })?;
                Ok(ListenFiles { certificate, key: Secret::new(key), client_ca })
            }
            (certificate, key, client_ca) => {
                Err([certificate.err(), key.err(), client_ca.err()].into_iter().flatten().collect())
            }
        }
    }

    /// User and password.
    fn login(&self, policy: &Resolved) -> Result<(String, Secret), Vec<Trouble>> {
        let password_needed = policy.listen.auth == Auth::ScramSha256;
        match &policy.credentials {
            CredentialsSource::Environment => {
                self.environment_login(password_needed).map_err(|problem| vec![problem.into()])
            }
            CredentialsSource::Secret(name) => {
                let text = |key, max| {
                    let bytes = self.file(SECRET_NAME, name, key, max)?;
                    one_line(bytes).ok_or_else(|| {
                        let message = format!("{} is empty or no text", self.shown(name, key));
                        Trouble::with(ReferenceState::SecretKeyMissing, SECRET_NAME, message)
                    })
                };
                let optional = !password_needed && self.is_missing(name, "password");
                let password = if optional { Ok(String::new()) } else { text("password", MAX_PASSWORD) };
                match (text("username", MAX_USER + 2), password) {
                    (Ok(user), Ok(password)) => Ok((user, Secret::new(password))),
                    (user, password) => Err([user.err(), password.err()].into_iter().flatten().collect()),
                }
            }
        }
    }

    fn environment_login(&self, password_needed: bool) -> Result<(String, Secret), Problem> {
        let Some(login) = self.login.clone()? else {
            let message = "is missing, and there is no DATABASE_URL: write credentials.secretName and give \
                           --secrets-dir, or set DATABASE_URL to postgresql://USER:PASSWORD@HOST/DATABASE";
            return Err(Problem::new("spec.database.credentials", message));
        };
        match login.password {
            Some(password) => Ok((login.user, password)),
            None if password_needed => Err(Problem::new(
                "DATABASE_URL",
                "has no password, which clients are checked against: write it, or a policy with listen.auth: Trust",
            )),
            None => Ok((login.user, Secret::new(""))),
        }
    }

    /// PEM of the authorities to trust; `None` for the system's, or where nothing is verified.
    fn server_roots(&self, policy: &Resolved) -> Result<Option<Vec<u8>>, Trouble> {
        if !policy.database.tls.verifies() {
            return Ok(None);
        }
        if let Some(name) = &policy.database.ca_secret {
            return self.authorities(CA_SECRET_NAME, name).map(Some);
        }
        match (&policy.credentials, &self.login) {
            (CredentialsSource::Secret(name), _) if !self.is_missing(name, "ca.crt") => {
                return self.authorities(SECRET_NAME, name).map(Some);
            }
            (CredentialsSource::Environment, Ok(Some(Login { root_certificate: Some(path), .. }))) => {
                let pem = read_certificates(path).and_then(|pem| certificates(path, pem));
                return pem.map(Some).map_err(|message| Problem::new("DATABASE_URL", message).into());
            }
            _ => {}
        }
        if self.system_roots.get().is_none() && rustls_native_certs::load_native_certs().certs.is_empty() {
            let message = "finds no certificates to trust on this system: name a Secret with ca.crt in \
                           spec.database.tls.caSecretName, or put ca.crt beside the credentials of \
                           spec.database.credentials.secretName";
            return Err(Trouble::with(ReferenceState::InvalidCaCertificateRef, "spec.database.tls.mode", message));
        }
        self.system_roots.get_or_init(|| ());
        Ok(None)
    }

    fn authorities(&self, field: &str, secret: &str) -> Result<Vec<u8>, Trouble> {
        let pem = self.file(field, secret, "ca.crt", MAX_CERTIFICATES)?;
        certificates(Path::new(&self.shown(secret, "ca.crt")), pem)
            .map_err(|message| Trouble::with(ReferenceState::InvalidCaCertificateRef, field, message))
    }

    fn file(&self, field: &str, secret: &str, key: &str, max: usize) -> Result<Vec<u8>, Trouble> {
        let Some(dir) = &self.dir else {
            let message = format!("{secret} needs --secrets-dir DIR, with {key} in DIR/{secret}: give the flag");
            let fault = Fault::Reference { state: ReferenceState::SecretNotFound, mounted: false };
            return Err(Trouble { problem: Problem::new(field, message), fault });
        };
        let directory = dir.join(secret);
        let path = directory.join(key);
        files::read(&path, max).map_err(|error| Trouble {
            problem: Problem::new(field, format!("{} cannot be read: {error}", path.display())),
            fault: missing(&directory),
        })
    }

    fn is_missing(&self, secret: &str, key: &str) -> bool {
        let path = self.dir.as_ref().map(|dir| dir.join(secret).join(key));
        path.is_some_and(|path| path.metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound))
    }

    fn shown(&self, secret: &str, key: &str) -> String {
        self.dir.as_deref().unwrap_or(Path::new("")).join(secret).join(key).display().to_string()
    }
}

/// What was replaced: the pair before if it is another, else what that one replaced.
fn previous(before: &Credentials, user: &str, password: &Secret, now: Instant) -> Option<Previous> {
    if before.user == user && before.password == *password {
        return before.previous.clone();
    }
    let (user, password) = (before.user.clone(), before.password.clone());
    Some(Previous { user, password, since: SystemTime::now(), until: now + OVERLAP })
}

/// A file's text without the line end that editors and `echo` leave.
fn one_line(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

/// Why a file of a Secret's directory can't be read. The kubelet's own entries, which begin with a dot, are there even
/// if the Secret is not.
fn missing(directory: &Path) -> Fault {
    let mut entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let state = match entries.any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
        true => ReferenceState::SecretKeyMissing,
        false => ReferenceState::SecretNotFound,
    };
    Fault::Reference { state, mounted: directory.is_dir() }
}

fn read_certificates(path: &Path) -> Result<Vec<u8>, String> {
    files::read(path, MAX_CERTIFICATES).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// Checks a file of certificates: one or more.
fn certificates(path: &Path, pem: Vec<u8>) -> Result<Vec<u8>, String> {
    chain(&pem).map(|_| ()).map_err(|message| format!("{}: {message}", path.display()))?;
    Ok(pem)
}

/// The certificates of a PEM text.
fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("is no PEM: {error}"))?;
    if chain.is_empty() { Err("holds no certificate (PEM)".into()) } else { Ok(chain) }
}

/// Whether certificate and key can be used and belong together.
fn check_pair(certificate: &[u8], key: &str) -> Result<(), String> {
    let chain = chain(certificate).map_err(|message| format!("tls.crt {message}"))?;
    // The parser's error says nothing of the key itself.
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "tls.key holds no private key (PEM)")?;
    let provider = rustls::crypto::ring::default_provider();
    let pair = CertifiedKey::from_der(chain, key, &provider);
    pair.map(drop).map_err(|error| format!("tls.crt and tls.key do not go together: {error}"))
}
