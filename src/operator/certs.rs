//! The operator's own certificate authority: in a Secret that all replicas read; each replica signs a certificate for
//! itself and keeps its key in memory.
//!
//! The authority is renewed in two steps, so that whoever trusts the old one has heard of the new one before anything is
//! signed by it: it is made and published ([`Authority::bundle`]) first, and signs after [`OVERLAP`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::pem::Pem;

use crate::tls::{self, TlsError};

/// How long an authority is valid.
pub const LIFETIME: Duration = Duration::from_secs(2 * 365 * 86_400);
/// An authority that ends sooner than this gets a successor.
pub const SUCCESSION: Duration = Duration::from_secs(180 * 86_400);
/// For how long a successor is published before it signs.
pub const OVERLAP: Duration = Duration::from_secs(30 * 86_400);
/// How long a replica's own certificate is valid.
pub const LEAF: Duration = Duration::from_secs(14 * 86_400);
/// A replica's own certificate is made anew after this time.
pub const LEAF_RENEWAL: Duration = Duration::from_secs(7 * 86_400);
/// Clocks may differ by this much.
const SKEW: Duration = Duration::from_secs(3_600);

const BUNDLE: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";

/// Why certificates can't be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The Secret holds something else.
    #[error("the Secret's key {0} is missing, can't be read, or does not fit the others")]
    Content(&'static str),
    /// A certificate could not be made.
    #[error("certificates: {0}")]
    Making(#[from] rcgen::Error),
    /// rustls refuses what was made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// One certificate of an authority with its key.
#[derive(Clone, PartialEq, Eq)]
struct Signer {
    certificate: String,
    key: String,
}

/// The authority as the Secret has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    signer: Signer,
    next: Option<Signer>,
    bundle: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(now: SystemTime) -> Result<Self, CertError> {
        let signer = Signer::new(now)?;
        Ok(Self { bundle: signer.certificate.clone(), signer, next: None })
    }

    /// As a Secret has it.
    ///
    /// # Errors
    /// When something is missing in there.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, CertError> {
        let text = |key: &'static str| {
            let bytes = data.get(key).ok_or(CertError::Content(key))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| CertError::Content(key))
        };
        let signer = Signer { certificate: text(CERTIFICATE)?, key: text(KEY)? };
        let next = match (text(NEXT_CERTIFICATE), text(NEXT_KEY)) {
            (Ok(certificate), Ok(key)) => Some(Signer { certificate, key }),
            _ => None,
        };
        let authority = Self { signer, next, bundle: text(BUNDLE)? };
        // Sidecars keep what they are told to trust: nothing half-made may get that far.
        authority.signer.check(CERTIFICATE, KEY)?;
        if let Some(next) = &authority.next {
            next.check(NEXT_CERTIFICATE, NEXT_KEY)?;
        }
        let bundle: Vec<_> = Pem::iter_from_buffer(authority.bundle.as_bytes()).collect();
        let is_good = |pem: &Result<Pem, _>| pem.as_ref().is_ok_and(|pem| pem.parse_x509().is_ok());
        if bundle.is_empty() || !bundle.iter().all(is_good) {
            return Err(CertError::Content(BUNDLE));
        }
        Ok(authority)
    }

    /// For a Secret.
    pub fn write(&self) -> BTreeMap<String, ByteString> {
        let mut data = vec![(BUNDLE, &self.bundle), (CERTIFICATE, &self.signer.certificate), (KEY, &self.signer.key)];
        if let Some(next) = &self.next {
            data.extend([(NEXT_CERTIFICATE, &next.certificate), (NEXT_KEY, &next.key)]);
        }
        data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes()))).collect()
    }

    /// What others are to trust, in PEM: this authority, its successor, and its predecessor as long as it is valid.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// When it ends.
    pub fn ends(&self) -> Option<SystemTime> {
        valid_until(&self.signer.certificate)
    }

    /// What is to become of it now; `None` if it stays as it is.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn renewed(&self, now: SystemTime) -> Result<Option<Self>, CertError> {
        let ends = valid_until(&self.signer.certificate).ok_or(CertError::Content(CERTIFICATE))?;
        let left = ends.duration_since(now).unwrap_or_default();
        match &self.next {
            None if left < SUCCESSION => {
                let next = Signer::new(now)?;
                let bundle = join(&[&next.certificate, &self.signer.certificate], now);
                Ok(Some(Self { next: Some(next), bundle, ..self.clone() }))
            }
            Some(next) => {
                let made = valid_until(&next.certificate).and_then(|ends| ends.checked_sub(LIFETIME));
                let published = made.and_then(|made| now.duration_since(made).ok()).unwrap_or_default();
                // Nobody can trust what has ended, published for long or not.
                if published < OVERLAP && !left.is_zero() {
                    return Ok(None);
                }
                let bundle = join(&[&next.certificate, &self.signer.certificate], now);
                Ok(Some(Self { signer: next.clone(), next: None, bundle }))
            }
            None => Ok(None),
        }
    }

    /// A certificate for a replica: names and addresses under which it is reached.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn issue(&self, names: &[String], now: SystemTime) -> Result<CertifiedKey, CertError> {
        let issuer = Issuer::from_ca_cert_pem(&self.signer.certificate, KeyPair::from_pem(&self.signer.key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "poolkeeper");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - SKEW).into();
        params.not_after = (now + LEAF).into();
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(tls::acceptor::certified(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())?)
    }
}

impl Signer {
    /// Whether this is a certificate and its key.
    fn check(&self, certificate: &'static str, key: &'static str) -> Result<(), CertError> {
        let pem = Pem::iter_from_buffer(self.certificate.as_bytes()).next().and_then(Result::ok);
        let pem = pem.ok_or(CertError::Content(certificate))?;
        let known = pem.parse_x509().map_err(|_| CertError::Content(certificate))?;
        let ours = KeyPair::from_pem(&self.key).map_err(|_| CertError::Content(key))?;
        if known.public_key().raw != ours.subject_public_key_info() {
            return Err(CertError::Content(key));
        }
        Ok(())
    }

    fn new(now: SystemTime) -> Result<Self, CertError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Poolkeeper");
        params.not_before = (now - SKEW).into();
        params.not_after = (now + LIFETIME).into();
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem() })
    }
}

/// When the first certificate of a PEM ends.
fn valid_until(pem: &str) -> Option<SystemTime> {
    let pem = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    let ends = pem.parse_x509().ok()?.validity().not_after.timestamp();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(ends).ok()?))
}

/// Those that have not ended.
fn join(certificates: &[&String], now: SystemTime) -> String {
    let valid = certificates.iter().filter(|pem| valid_until(pem).is_some_and(|ends| ends > now));
    valid.map(|pem| pem.as_str()).collect()
}

/// The names under which replicas are reached: Services of that namespace, and names or
/// addresses given by hand.
pub fn names(namespace: &str, services: &[&str], others: &[String]) -> Vec<String> {
    let of = |service: &&str| {
        [
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            format!("{service}.{namespace}"),
        ]
    };
    services.iter().flat_map(of).chain(others.iter().cloned()).collect()
}

/// The certificate that new connections are served with; those that stand keep theirs.
#[derive(Debug, Default)]
pub struct Served(RwLock<Option<Arc<CertifiedKey>>>);

impl Served {
    /// From now on this one.
    pub fn set(&self, certificate: CertifiedKey) {
        let mut served = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *served = Some(Arc::new(certificate));
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

    const DAY: Duration = Duration::from_secs(86_400);

    fn count(bundle: &str) -> usize {
        bundle.matches("BEGIN CERTIFICATE").count()
    }

    /// Whether someone who trusts the bundle takes the replica's certificate.
    fn trusts(bundle: &str, authority: &Authority, now: SystemTime) -> bool {
        let leaf = authority.issue(&["poolkeeper-stream.pk.svc".into(), "127.0.0.1".into()], now).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let at = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        ["poolkeeper-stream.pk.svc", "127.0.0.1"].iter().all(|name| {
            let name = ServerName::try_from(*name).unwrap();
            use rustls::client::danger::ServerCertVerifier;
            verifier.verify_server_cert(&leaf.cert[0], &[], &name, &[], at).is_ok()
        })
    }

    #[test]
    fn it_survives_the_secret() {
        let now = SystemTime::now();
        let authority = Authority::new(now).unwrap();
        assert_eq!(Authority::read(&authority.write()).unwrap(), authority);
        assert!(trusts(authority.bundle(), &authority, now));
        assert!(!format!("{authority:?}").contains("PRIVATE"));
        let mut broken = authority.write();
        broken.insert(CERTIFICATE.into(), ByteString(b"x".to_vec()));
        assert!(Authority::read(&broken).is_err());
        for (key, text) in [(BUNDLE, ""), (BUNDLE, "x"), (KEY, "x")] {
            let mut broken = authority.write();
            broken.insert(key.into(), ByteString(text.into()));
            assert!(Authority::read(&broken).unwrap_err().to_string().contains(key), "{key}");
        }
        let mut mixed = authority.write();
        mixed.insert(KEY.into(), Authority::new(now).unwrap().write()[KEY].clone());
        assert!(Authority::read(&mixed).unwrap_err().to_string().contains(KEY), "another's key");
        broken.remove(KEY);
        assert!(Authority::read(&broken).unwrap_err().to_string().contains("tls.key"));
    }

    #[test]
    fn nobody_meets_a_signature_that_he_could_not_know() {
        let start = SystemTime::now();
        let first = Authority::new(start).unwrap();
        assert_eq!(first.renewed(start + LIFETIME - SUCCESSION - DAY).unwrap(), None);
        let now = start + LIFETIME - SUCCESSION + DAY;
        let published = first.renewed(now).unwrap().unwrap();
        assert_eq!(count(published.bundle()), 2);
        assert!(trusts(first.bundle(), &published, now), "it does not sign yet");
        assert_eq!(published.renewed(now + OVERLAP - DAY).unwrap(), None);
        let now = now + OVERLAP + DAY;
        let second = published.renewed(now).unwrap().unwrap();
        assert!(trusts(published.bundle(), &second, now) && !trusts(first.bundle(), &second, now));
        assert!(trusts(second.bundle(), &first, now), "what the old one signed is still good");
        assert_eq!(second.renewed(now).unwrap(), None);
    }

    #[test]
    fn an_authority_that_has_ended_is_replaced_at_once() {
        let start = SystemTime::now();
        let first = Authority::new(start).unwrap();
        let now = start + LIFETIME + DAY;
        let published = first.renewed(now).unwrap().unwrap();
        let second = published.renewed(now).unwrap().unwrap();
        assert_eq!(count(second.bundle()), 1);
        assert!(trusts(second.bundle(), &second, now));
    }
}
