//! The channel binding `tls-server-end-point` (RFC 5929, section 4): a hash of the server's certificate, which
//! client and server compare inside SCRAM, so that nobody can sit between two TLS sessions.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

// Signature algorithms by the hash they are made with (RFC 8017 appendix C, RFC 5758, RFC 3279).
const SHA224: [&str; 2] = ["1.2.840.113549.1.1.14", "1.2.840.10045.4.3.1"];
const SHA256: [&str; 2] = ["1.2.840.113549.1.1.11", "1.2.840.10045.4.3.2"];
const SHA384: [&str; 2] = ["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
const SHA512: [&str; 2] = ["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];
/// MD5 and SHA-1, in whose place the RFC puts SHA-256.
const BROKEN: [&str; 3] = ["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1"];
/// Hashes by themselves, as RSASSA-PSS names one in its parameters.
const PLAIN: [(&str, Hash); 5] = [
    ("1.3.14.3.2.26", Hash::Sha256), // SHA-1
    ("2.16.840.1.101.3.4.2.4", Hash::Sha224),
    ("2.16.840.1.101.3.4.2.1", Hash::Sha256),
    ("2.16.840.1.101.3.4.2.2", Hash::Sha384),
    ("2.16.840.1.101.3.4.2.3", Hash::Sha512),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The binding of a TLS session whose server showed `certificate` (DER). `None` where the RFC defines none: its
/// signature uses no hash of its own (Ed25519), or it cannot be read. Then there is no SCRAM-SHA-256-PLUS.
pub fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(match hash_of(&parsed)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

fn hash_of(certificate: &X509Certificate<'_>) -> Option<Hash> {
    let algorithm = &certificate.signature_algorithm;
    if let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(algorithm) {
        return of_plain(&parameters.hash_algorithm_oid().to_id_string());
    }
    of_signature(&algorithm.algorithm.to_id_string())
}

fn of_signature(oid: &str) -> Option<Hash> {
    let table: [(&[&str], Hash); 5] = [
        (&SHA224, Hash::Sha224),
        (&SHA256, Hash::Sha256),
        (&SHA384, Hash::Sha384),
        (&SHA512, Hash::Sha512),
        (&BROKEN, Hash::Sha256),
    ];
    table.iter().find(|(oids, _)| oids.contains(&oid)).map(|(_, hash)| *hash)
}

fn of_plain(oid: &str) -> Option<Hash> {
    PLAIN.iter().find(|(known, _)| *known == oid).map(|(_, hash)| *hash)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_is_the_signatures_own() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(tls_server_end_point(&der).unwrap(), Sha256::digest(&der).to_vec());
        let der = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(tls_server_end_point(&der).unwrap(), Sha384::digest(&der).to_vec());
    }

    #[test]
    fn none_where_the_rfc_defines_none() {
        assert_eq!(tls_server_end_point(&certificate(&rcgen::PKCS_ED25519)), None);
        assert_eq!(tls_server_end_point(b"not a certificate"), None);
    }

    #[test]
    fn every_algorithm() {
        let hashes = |oids: &[&str]| oids.iter().map(|oid| of_signature(oid)).collect::<Vec<_>>();
        assert_eq!(hashes(&SHA224), [Some(Hash::Sha224); 2]);
        assert_eq!(hashes(&SHA256), [Some(Hash::Sha256); 2]);
        assert_eq!(hashes(&SHA384), [Some(Hash::Sha384); 2]);
        assert_eq!(hashes(&SHA512), [Some(Hash::Sha512); 2]);
        assert_eq!(hashes(&BROKEN), [Some(Hash::Sha256); 3]);
        assert_eq!(of_signature("1.2.3"), None);
        for (oid, hash) in PLAIN {
            assert_eq!(of_plain(oid), Some(hash));
        }
        assert_eq!(of_plain("1.2.3"), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let _ = tls_server_end_point(&bytes);
            static DER: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| certificate(&rcgen::PKCS_ECDSA_P256_SHA256));
            let mut der = DER.clone();
            let at = at.index(der.len());
            der[at] = byte;
            let _ = tls_server_end_point(&der);
        }
    }
}
