#![allow(clippy::unwrap_used)]
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, Error};

use super::acceptor::Acceptor;
use super::verify::{Check, Verifier};
use super::*;

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn ca() -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test CA");
    let pem = params.self_signed(&key).unwrap().pem();
    Ca { pem, issuer: Issuer::new(params, key) }
}

/// A certificate by `ca` for `names` with `common` as its common name, and its key; both PEM.
fn leaf(ca: &Ca, names: &[&str], common: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, common);
    (params.signed_by(&key, &ca.issuer).unwrap().pem(), key.serialize_pem())
}

fn verify_at(check: Check, roots: &str, leaf: &str, name: &str, now: UnixTime) -> Result<(), Error> {
    let roots = certificates("roots", roots.as_bytes()).unwrap();
    let leaf = certificates("leaf", leaf.as_bytes()).unwrap();
    let verifier = Verifier::new(check, store(&roots, true).unwrap(), roots, &provider()).unwrap();
    let name = ServerName::try_from(name).unwrap();
    verifier.verify_server_cert(&leaf[0], &leaf[1..], &name, &[], now).map(|_| ())
}

fn verify(check: Check, roots: &str, leaf: &str, name: &str) -> Result<(), Error> {
    verify_at(check, roots, leaf, name, UnixTime::now())
}

fn not_for_name(result: &Result<(), Error>) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(result, Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })))
}

#[test]
fn the_modes_look_at_what_libpq_looks_at() {
    let (ours, theirs) = (ca(), ca());
    let (good, _) = leaf(&ours, &["db.shop", "10.0.0.1"], "x");
    let (strange, _) = leaf(&theirs, &["db.shop"], "x");
    for name in ["db.shop", "10.0.0.1"] {
        assert_eq!(verify(Check::ChainAndName, &ours.pem, &good, name), Ok(()));
    }
    for name in ["other.shop", "10.0.0.2", "x"] {
        assert!(not_for_name(&verify(Check::ChainAndName, &ours.pem, &good, name)), "{name}");
        assert_eq!(verify(Check::Chain, &ours.pem, &good, name), Ok(()));
    }
    for check in [Check::Chain, Check::ChainAndName] {
        // The two CAs have one name, so it is the signature that tells.
        let error = Err(Error::InvalidCertificate(CertificateError::BadSignature));
        assert_eq!(verify(check, &ours.pem, &strange, "db.shop"), error);
    }
    assert_eq!(verify(Check::Nothing, &ours.pem, &strange, "elsewhere"), Ok(()));
}

#[test]
fn a_name_in_the_common_name_only() {
    let ca = ca();
    let (certificate, _) = leaf(&ca, &[], "db.shop");
    assert_eq!(verify(Check::ChainAndName, &ca.pem, &certificate, "db.shop"), Ok(()));
    assert!(not_for_name(&verify(Check::ChainAndName, &ca.pem, &certificate, "other")));
}

#[test]
fn a_self_signed_certificate_that_is_its_own_root() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "dbhost");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem();
    let at = |year: u64| UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 365 * 86_400 + 100 * 86_400));
    assert_eq!(verify_at(Check::ChainAndName, &pem, &pem, "dbhost", at(2025)), Ok(()));
    assert!(not_for_name(&verify_at(Check::ChainAndName, &pem, &pem, "other", at(2025))));
    let error = |error: CertificateError| Err(Error::InvalidCertificate(error));
    assert_eq!(verify_at(Check::Chain, &pem, &pem, "dbhost", at(2019)), error(CertificateError::NotValidYet));
    assert_eq!(verify_at(Check::Chain, &pem, &pem, "dbhost", at(2031)), error(CertificateError::Expired));
    assert!(verify_at(Check::Chain, &ca().pem, &pem, "dbhost", at(2025)).is_err());
}

#[test]
fn what_each_mode_becomes() {
    let ca = ca().pem;
    let of = |mode, pem: Option<&str>| to_server(mode, pem.map(str::as_bytes));
    assert!(matches!(of(TlsMode::Disable, None), Ok(Tls::Disable)));
    assert!(matches!(of(TlsMode::Prefer, None), Ok(Tls::Prefer(_))));
    assert!(matches!(of(TlsMode::Require, None), Ok(Tls::Require(_))));
    assert!(matches!(of(TlsMode::VerifyCa, Some(&ca)), Ok(Tls::Require(_))));
    assert!(matches!(of(TlsMode::VerifyFull, Some(&ca)), Ok(Tls::Require(_))));
    assert!(matches!(of(TlsMode::VerifyFull, Some("")), Err(TlsError::Pem { .. })));
    assert!(matches!(of(TlsMode::VerifyFull, Some("-----BEGIN CERTIFICATE-----\nx")), Err(TlsError::Pem { .. })));
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(of(TlsMode::VerifyFull, Some(nonsense)), Err(TlsError::Rustls(_))));
}

#[test]
fn no_roots_is_an_error_that_says_what_to_do() {
    let error = Verifier::new(Check::Chain, RootCertStore::empty(), Vec::new(), &provider()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("spec.database.tls.caSecretName") && text.contains("ca.crt"), "{text}");
    assert!(Verifier::new(Check::Nothing, RootCertStore::empty(), Vec::new(), &provider()).is_ok());
}

#[test]
fn acceptors() {
    let ca = ca();
    let (chain, key) = leaf(&ca, &["localhost"], "x");
    let (_, other) = leaf(&ca, &["localhost"], "x");
    let acceptor = Acceptor::new(chain.as_bytes(), key.as_bytes(), None).unwrap();
    assert!(acceptor.end_point.is_some() && !acceptor.demands_certificate);
    assert_eq!(acceptor.config.alpn_protocols, [ALPN]);
    assert!(Acceptor::new(chain.as_bytes(), key.as_bytes(), Some(ca.pem.as_bytes())).unwrap().demands_certificate);
    let wrong = |chain: &str, key: &str, ca: Option<&str>| {
        Acceptor::new(chain.as_bytes(), key.as_bytes(), ca.map(str::as_bytes)).unwrap_err().to_string()
    };
    assert_eq!(wrong(&key, &key, None), "the certificate: it holds no certificate in PEM format");
    assert!(wrong(&chain, &chain, None).starts_with("the private key: "));
    assert!(wrong(&chain, &other, None).starts_with("TLS: "));
    assert!(wrong(&chain, &key, Some("")).starts_with("the clients' CA certificate: "));
}
