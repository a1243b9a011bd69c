//! TLS by rustls and ring, with the provider named where it is used: nothing is installed for the process.
//!
//! Towards servers: what libpq's `sslmode` means ([`to_server`]). Towards clients: [`acceptor`].

pub mod acceptor;
mod verify;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

use crate::api::v1alpha1::TlsMode;
use crate::pg::connect::Tls;
use verify::{Check, Verifier};

/// The protocol's name in ALPN, as PostgreSQL 17 has it.
pub const ALPN: &[u8] = b"postgresql";

/// Why TLS can't be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// There is nothing to verify the server by.
    #[error(
        "no CA certificate to verify the server by: name one in spec.database.tls.caSecretName, put ca.crt beside \
         the credentials of spec.database.credentials.secretName, or install the system's root certificates"
    )]
    NoRoots,
    /// A file that holds no certificate, or a broken one.
    #[error("{what}: {reason}")]
    Pem {
        /// Which input it was.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// rustls refuses, e.g. a key that does not belong to its certificate.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// What [`crate::pg::connect`] needs for `mode`. `ca_pem` holds the CA's certificates; without it the system's
/// roots are read, where the mode verifies anything.
///
/// Connections made with one value resume each other's TLS sessions: keep it as long as the settings hold.
///
/// # Errors
/// When the CA's certificates can't be read, or none are to be found.
pub fn to_server(mode: TlsMode, ca_pem: Option<&[u8]>) -> Result<Tls, TlsError> {
    let check = match mode {
        TlsMode::Disable => return Ok(Tls::Disable),
        TlsMode::Prefer | TlsMode::Require => Check::Nothing,
        TlsMode::VerifyCa => Check::Chain,
        TlsMode::VerifyFull => Check::ChainAndName,
    };
    let roots = match (check, ca_pem) {
        (Check::Nothing, _) => Vec::new(),
        (_, Some(pem)) => certificates("the CA certificate", pem)?,
        (_, None) => rustls_native_certs::load_native_certs().certs,
    };
    let provider = provider();
    let verifier = Verifier::new(check, store(&roots, ca_pem.is_some())?, roots, &provider)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = Arc::new(config);
    Ok(if mode == TlsMode::Prefer { Tls::Prefer(config) } else { Tls::Require(config) })
}

/// TLS towards the operator, whose certificate must come from one of these authorities (PEM) and be made out to its
/// name. An input that can't be read is passed over, as long as another can.
///
/// # Errors
/// When no input holds a certificate, or rustls refuses them all.
pub fn to_operator(authorities: &[Vec<u8>]) -> Result<ClientConfig, TlsError> {
    let (mut roots, mut broken) = (RootCertStore::empty(), None);
    for pem in authorities {
        match certificates("the operator's authorities", pem) {
            Ok(found) => _ = roots.add_parsable_certificates(found),
            Err(error) => broken = Some(error),
        }
    }
    if roots.is_empty() {
        let reason = "they hold no certificate that can be used".to_owned();
        return Err(broken.unwrap_or(TlsError::Pem { what: "the operator's authorities", reason }));
    }
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The provider of all cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// All certificates in `pem`, at least one.
fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let broken = |reason: String| TlsError::Pem { what, reason };
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| broken(error.to_string()))?;
    if found.is_empty() {
        return Err(broken("it holds no certificate in PEM format".to_owned()));
    }
    Ok(found)
}

/// A store of `roots`. All of a file that the user named must be usable; of the system's, what is.
fn store(roots: &[CertificateDer<'static>], all: bool) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if !all {
        store.add_parsable_certificates(roots.iter().cloned());
        return Ok(store);
    }
    for root in roots {
        store.add(root.clone())?;
    }
    Ok(store)
}

#[cfg(test)]
mod tests;
