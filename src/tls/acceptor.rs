//! TLS towards clients: our certificate, and whether clients must show one.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;

use super::{ALPN, TlsError, certificates, provider, store};
use crate::pg::auth::binding::tls_server_end_point;

/// Our side of TLS with clients.
#[derive(Debug, Clone)]
pub struct Acceptor {
    /// What rustls needs.
    pub config: Arc<ServerConfig>,
    /// What clients bind SCRAM to; `None` if the certificate allows no binding.
    pub end_point: Option<Arc<[u8]>>,
    /// Whether a client must show a certificate of the configured CA: then nothing but TLS is good enough over TCP.
    pub demands_certificate: bool,
}

impl Acceptor {
    /// Reads a certificate chain (ours first) and its key; `client_ca`, if there, is what clients' certificates
    /// must come from. All are PEM.
    ///
    /// # Errors
    /// When one of them can't be read, or the key is another certificate's.
    pub fn new(chain: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<Acceptor, TlsError> {
        let chain = certificates("the certificate", chain)?;
        let end_point = chain.first().and_then(|leaf| tls_server_end_point(leaf)).map(Arc::from);
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::Pem { what: "the private key", reason: error.to_string() })?;
        let provider = provider();
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots = store(&certificates("the clients' CA certificate", pem)?, true)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(
                    |error| TlsError::Pem { what: "the clients' CA certificate", reason: error.to_string() },
                )?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Acceptor { config: Arc::new(config), end_point, demands_certificate: client_ca.is_some() })
    }
}

/// Where an [`Acceptor`] is read from. PEM files; links (as a mounted Secret has them) are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Our certificate chain.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA of clients' certificates.
    pub client_ca: Option<PathBuf>,
}

impl Files {
    fn read(&self) -> Result<Acceptor, TlsError> {
        let client_ca = self.client_ca.as_deref().map(read).transpose()?;
        Acceptor::new(&read(&self.chain)?, &read(&self.key)?, client_ca.as_deref())
    }

    /// What changes when a file does: its inode, length and time of change.
    fn marks(&self) -> Vec<Option<(u64, u64, i64, i64)>> {
        let mark = |meta: Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
        let files = [Some(&self.chain), Some(&self.key), self.client_ca.as_ref()];
        files.into_iter().flatten().map(|path| std::fs::metadata(path).ok().map(mark)).collect()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read { path: path.to_owned(), error })
}

/// How often the files are looked at, at most: a stat of each is nothing beside the handshake that asks for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An [`Acceptor`] whose files are read again when they change. What can't be used leaves the last good one.
#[derive(Debug)]
pub struct Reloading {
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Arc<Acceptor>,
    marks: Vec<Option<(u64, u64, i64, i64)>>,
    looked: Instant,
}

impl Reloading {
    /// Reads the files.
    ///
    /// # Errors
    /// When they can't be used.
    pub fn open(files: Files, now: Instant) -> Result<Reloading, TlsError> {
        let marks = files.marks();
        let current = Arc::new(files.read()?);
        Ok(Reloading { files, state: Mutex::new(State { current, marks, looked: now }) })
    }

    /// The acceptor for a handshake that begins `now`.
    pub fn current(&self, now: Instant) -> Arc<Acceptor> {
        // Nothing below leaves the state half made.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) >= LOOK_EVERY {
            state.looked = now;
            self.look(&mut state);
        }
        Arc::clone(&state.current)
    }

    fn look(&self, state: &mut State) {
        let marks = self.files.marks();
        if marks == state.marks {
            return;
        }
        match self.files.read() {
            Ok(acceptor) => {
                tracing::info!(chain = %self.files.chain.display(), "TLS certificate for clients was read again");
                state.current = Arc::new(acceptor);
            }
            Err(error) => tracing::warn!(%error, "changed TLS files can't be used; the last good ones stay"),
        }
        // Also after an error, else it would be logged every second; whoever corrects the file changes its mark.
        state.marks = marks;
    }
}
