//! TLS towards clients: our certificate, and whether clients must show one.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

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

/// A certificate chain and its key, both PEM, for a resolver of certificates.
///
/// # Errors
/// When one of them can't be read, or the key is another certificate's.
pub fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("the certificate", chain)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| TlsError::Pem { what: "the private key", reason: error.to_string() })?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// A server that shows whatever certificate the resolver has at the time.
///
/// # Errors
/// When rustls refuses its own defaults.
pub fn with_resolver(resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth().with_cert_resolver(resolver))
}
