//! Certificates of an authority made for one test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

/// An authority and one certificate for localhost and 127.0.0.1, as files.
pub struct Certs {
    dir: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certs {
    /// A new authority with a certificate for `localhost` and `127.0.0.1`.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pk-tls-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Poolkeeper's tests");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certs = Self { dir, authority };
        certs.issue(&["localhost", "127.0.0.1"]);
        certs
    }

    /// Replaces the certificate by one for these names.
    pub fn issue(&self, names: &[&str]) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.authority).unwrap();
        for (name, text) in
            [("ca.crt", self.authority.pem()), ("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())]
        {
            let new = self.dir.path().join(format!(".{name}"));
            fs::write(&new, text).unwrap();
            // PostgreSQL wants its key closed to others, and its own.
            fs::set_permissions(&new, fs::Permissions::from_mode(if name == "tls.key" { 0o600 } else { 0o644 }))
                .unwrap();
            fs::rename(new, self.path(name)).unwrap();
        }
    }

    /// The path of `ca.crt`, `tls.crt` or `tls.key`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// For [`super::Options::tls`]: gives the key to the user that runs PostgreSQL.
    pub fn for_postgres(&self) -> Option<(PathBuf, PathBuf)> {
        super::pg::own(&self.path("tls.key"));
        Some((self.path("tls.crt"), self.path("tls.key")))
    }

    /// A client's TLS configuration that trusts this authority alone.
    pub fn client(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

impl Default for Certs {
    fn default() -> Self {
        Self::new()
    }
}
