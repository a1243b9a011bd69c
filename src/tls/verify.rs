//! Whether a server's certificate is good enough: the rules of libpq's `verify-ca` and `verify-full`.
//!
//! Two things that PostgreSQL's own documentation teaches are not in rustls: a self-signed certificate that is
//! itself the root (`openssl req -x509` marks it as a CA), and a host name that stands in the common name only.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::TlsError;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing but that the server holds the certificate's key.
    Nothing,
    /// That it comes from one of the roots.
    Chain,
    /// And that it is made out to the host.
    ChainAndName,
}

/// Verifies servers' certificates.
#[derive(Debug)]
pub(super) struct Verifier {
    check: Check,
    store: RootCertStore,
    roots: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// `store` holds `roots`, as rustls wants them.
    pub(super) fn new(
        check: Check,
        store: RootCertStore,
        roots: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, TlsError> {
        if check != Check::Nothing && store.is_empty() {
            return Err(TlsError::NoRoots);
        }
        Ok(Verifier { check, store, roots, algorithms: provider.signature_verification_algorithms })
    }

    fn chain(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        if self.roots.iter().any(|root| root.as_ref() == leaf.as_ref()) {
            return in_its_time(leaf, now);
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.store, others, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            self.chain(leaf, others, now)?;
        }
        if self.check == Check::ChainAndName {
            made_out_to(leaf, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether `leaf`, which is trusted as it is, is valid now.
fn in_its_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).ok().and_then(|now| ASN1Time::from_timestamp(now).ok());
    let now = now.ok_or(Error::FailedToGetCurrentTime)?;
    if now < parsed.validity().not_before {
        return Err(CertificateError::NotValidYet.into());
    } else if now > parsed.validity().not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether `leaf` names the host: among its alternative names, and only if it has none at all in its common name.
fn made_out_to(leaf: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
    match parsed.subject_alternative_name() {
        Ok(None) => {
            let wanted = name.to_str();
            let ip = matches!(name, ServerName::IpAddress(_));
            let mut names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            // PostgreSQL looks at the first common name only.
            let fits = names.next().is_some_and(|common| fits(common, &wanted, ip));
            if fits { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
        }
        _ => verify_server_name(&ParsedCertificate::try_from(leaf)?, name),
    }
}

/// Whether a common name means the host: equal but for case, or `*.` and the rest after the host's first label.
/// An address never fits a wildcard.
fn fits(common: &str, wanted: &str, ip: bool) -> bool {
    match common.strip_prefix("*.") {
        Some(rest) if !ip => {
            wanted.split_once('.').is_some_and(|(label, tail)| !label.is_empty() && tail.eq_ignore_ascii_case(rest))
        }
        _ => common.eq_ignore_ascii_case(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn common_names() {
        for (common, wanted) in
            [("db.shop", "db.shop"), ("DB.shop", "db.SHOP"), ("*.shop", "db.shop"), ("10.0.0.1", "10.0.0.1")]
        {
            assert!(fits(common, wanted, wanted.starts_with('1')), "{common} {wanted}");
        }
        for (common, wanted) in [
            ("db", "db.shop"),
            ("*.shop", "a.db.shop"),
            ("*.shop", "shop"),
            ("*.shop", ".shop"),
            ("*", "db"),
            ("*.0.0.1", "10.0.0.1"),
            ("", "db"),
        ] {
            assert!(!fits(common, wanted, wanted.starts_with('1')), "{common} {wanted}");
        }
    }
}
