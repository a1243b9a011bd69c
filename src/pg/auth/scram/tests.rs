#![allow(clippy::unwrap_used)]
use super::*;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

const SALT: Salt = Salt(*b"0123456789abcdef");

/// A whole exchange with the client of postgres-protocol.
fn log_in(
    mechanism: &str,
    password: &str,
    client: ChannelBinding,
    binding: Option<&[u8]>,
    verifiers: &[Verifier],
) -> Result<(), ScramError> {
    let mut client = ScramSha256::new(password.as_bytes(), client);
    let (exchange, answer) = Exchange::start(mechanism.as_bytes(), client.message(), binding, SALT)?;
    client.update(answer.as_bytes()).unwrap();
    let answer = exchange.finish(client.message(), verifiers)?;
    client.finish(answer.as_bytes()).unwrap();
    Ok(())
}

fn plain(password: &str, verifiers: &[Verifier]) -> Result<(), ScramError> {
    log_in(SCRAM_SHA_256, password, ChannelBinding::unsupported(), None, verifiers)
}

#[test]
fn the_example_of_rfc_7677() {
    let salt = Salt(STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap());
    let verifier = Verifier::new("pencil", salt);
    let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    let nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let (exchange, answer) = Exchange::start_with(SCRAM_SHA_256.as_bytes(), first, None, salt, nonce).unwrap();
    assert_eq!(answer, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    let last =
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let answer = exchange.finish(last, &[verifier]).unwrap();
    assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn right_and_wrong_passwords() {
    let verifier = [Verifier::new("secret", SALT)];
    assert_eq!(plain("secret", &verifier), Ok(()));
    assert_eq!(plain("Secret", &verifier), Err(ScramError::Password));
    assert_eq!(plain("", &verifier), Err(ScramError::Password));
    assert_eq!(plain("secret", &[]), Err(ScramError::Password));
    assert_eq!(format!("{verifier:?}"), "[Verifier(…)]");
}

#[test]
fn during_a_rotation_both_passwords_are_right() {
    let verifiers = [Verifier::new("new", SALT), Verifier::new("old", SALT)];
    assert_eq!(plain("new", &verifiers), Ok(()));
    assert_eq!(plain("old", &verifiers), Ok(()));
    assert_eq!(plain("older", &verifiers), Err(ScramError::Password));
}

#[test]
fn case_65_very_long_and_strange_passwords() {
    let long = "x".repeat(4000);
    assert_eq!(plain(&long, &[Verifier::new(&long, SALT)]), Ok(()));
    for strange in ["I\u{ad}X", "\u{2168}", "\u{7}bell", "päss wörd", "\u{221}unassigned"] {
        assert_eq!(plain(strange, &[Verifier::new(strange, SALT)]), Ok(()), "{strange:?}");
    }
    // What SASLprep makes equal is equal.
    assert_eq!(plain("\u{2168}", &[Verifier::new("IX", SALT)]), Ok(()));
}

#[test]
fn case_61_channel_binding() {
    let verifiers = [Verifier::new("secret", SALT)];
    let try_it = |mechanism, client, binding| log_in(mechanism, "secret", client, binding, &verifiers);
    let ours = || ChannelBinding::tls_server_end_point(b"hash".to_vec());
    // Bound to the same endpoint.
    assert_eq!(try_it(SCRAM_SHA_256_PLUS, ours(), Some(b"hash")), Ok(()));
    // Somebody else's certificate.
    let theirs = ChannelBinding::tls_server_end_point(b"else".to_vec());
    assert_eq!(try_it(SCRAM_SHA_256_PLUS, theirs, Some(b"hash")), Err(ScramError::Binding));
    // `y,,`: right without TLS, a lie in between with it.
    assert_eq!(try_it(SCRAM_SHA_256, ChannelBinding::unrequested(), None), Ok(()));
    assert_eq!(try_it(SCRAM_SHA_256, ChannelBinding::unrequested(), Some(b"hash")), Err(ScramError::Downgrade));
    // `n,,`: the client can't bind, inside TLS or not.
    assert_eq!(try_it(SCRAM_SHA_256, ChannelBinding::unsupported(), None), Ok(()));
    assert_eq!(try_it(SCRAM_SHA_256, ChannelBinding::unsupported(), Some(b"hash")), Ok(()));
    // Data and mechanism don't fit.
    assert!(matches!(try_it(SCRAM_SHA_256, ours(), Some(b"hash")), Err(ScramError::Malformed(_))));
    for client in [ChannelBinding::unsupported(), ChannelBinding::unrequested()] {
        assert!(matches!(try_it(SCRAM_SHA_256_PLUS, client, Some(b"hash")), Err(ScramError::Malformed(_))));
    }
    // Not offered without TLS.
    assert_eq!(try_it(SCRAM_SHA_256_PLUS, ours(), None), Err(ScramError::Mechanism));
}

#[test]
fn what_is_offered() {
    assert_eq!(mechanisms(None), [SCRAM_SHA_256]);
    assert_eq!(mechanisms(Some(b"hash")), [SCRAM_SHA_256_PLUS, SCRAM_SHA_256]);
}

fn start(message: &[u8]) -> Result<(Exchange, String), ScramError> {
    Exchange::start_with(SCRAM_SHA_256.as_bytes(), message, None, SALT, "server")
}

#[test]
fn first_messages_that_are_refused() {
    let code = |message: &[u8]| start(message).unwrap_err().sqlstate().as_str().to_owned();
    for malformed in
        [&b""[..], b"n", b"n,", b"n,,", b"n,,n=u", b"n,,r=x,n=u", b"n,,n=u,r=", b"n,,n=u,r=a b", b"n,,n=u,r=\xff"]
    {
        assert_eq!(code(malformed), "08P01", "{malformed:?}");
    }
    for malformed in [&b"q,,n=u,r=x"[..], b"n,x,n=u,r=x", b"p=tls-unique,,n=u,r=x", b"N,,n=u,r=x"] {
        assert_eq!(code(malformed), "08P01", "{malformed:?}");
    }
    assert_eq!(code(b"n,a=admin,n=u,r=x"), "0A000");
    assert_eq!(code(b"n,,m=x,n=u,r=x"), "0A000");
    let unique = b"p=tls-unique,,n=u,r=x";
    let refused = Exchange::start(SCRAM_SHA_256_PLUS.as_bytes(), unique, Some(b"hash"), SALT).unwrap_err();
    assert_eq!(refused.sqlstate(), SqlState::FEATURE_NOT_SUPPORTED);
    assert_eq!(Exchange::start(b"PLAIN", b"n,,n=u,r=x", None, SALT).unwrap_err(), ScramError::Mechanism);
    // Extensions after the nonce are ignored, as in PostgreSQL.
    assert_eq!(start(b"n,,n=u,r=x,z=1").unwrap().1, "r=xserver,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096");
}

#[test]
fn last_messages_that_are_refused() {
    let finish = |message: &[u8]| start(b"n,,n=u,r=x").unwrap().0.finish(message, &[Verifier::new("p", SALT)]);
    let proof = STANDARD.encode([0; 32]);
    let with = |start: &str| format!("{start},p={proof}").into_bytes();
    assert_eq!(finish(&with("c=biws,r=xserver")), Err(ScramError::Password));
    assert_eq!(finish(&with("c=biws,r=xserver,z=1")), Err(ScramError::Password));
    assert_eq!(finish(&with("c=biws,r=xserve")), Err(ScramError::Malformed("nonce does not match")));
    assert_eq!(finish(&with("c=eSws,r=xserver")), Err(ScramError::Binding));
    for malformed in ["", "c=biws", "r=xserver,c=biws", "c=biws,p=xserver"] {
        assert!(matches!(finish(&with(malformed)), Err(ScramError::Malformed(_))), "{malformed}");
    }
    for proof in ["", "AAAA", "not base64!", &STANDARD.encode([0; 33])] {
        let message = format!("c=biws,r=xserver,p={proof}");
        assert_eq!(finish(message.as_bytes()), Err(ScramError::Malformed("malformed proof")), "{proof}");
    }
    assert_eq!(finish(b"c=biws,r=xserver"), Err(ScramError::Malformed("the last message is cut short")));
    assert_eq!(finish(b"\xff"), Err(ScramError::Malformed("not UTF-8")));
}

#[test]
fn every_refusal_has_postgresqls_code() {
    let codes = [
        (ScramError::Mechanism, "08P01"),
        (ScramError::Downgrade, "28000"),
        (ScramError::Binding, "28000"),
        (ScramError::Password, "28P01"),
        (ScramError::Random, "XX000"),
    ];
    for (error, code) in codes {
        assert_eq!(error.sqlstate().as_str(), code);
    }
}

#[test]
fn every_nonce_is_another() {
    let answer = || Exchange::start(SCRAM_SHA_256.as_bytes(), b"n,,n=,r=c", None, SALT).unwrap().1;
    assert_ne!(answer(), answer());
    assert_ne!(Salt::random().unwrap(), Salt::random().unwrap());
}

proptest! {
    #[test]
    fn any_bytes(first in proptest::collection::vec(any::<u8>(), 0..80), last in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = start(&first);
        let (exchange, _) = start(b"n,,n=u,r=x").unwrap();
        prop_assert!(exchange.finish(&last, &[]).is_err());
    }

    #[test]
    fn any_attributes(first in "[npy]?(=[a-z-]{0,3})?,{0,3}[anrm]?=?.{0,4},?[nr]?=?.{0,3}", last in "c?=?(biws)?,?r?=?.{0,3},?p?=?.{0,5}") {
        let _ = start(first.as_bytes());
        let (exchange, _) = start(b"n,,n=u,r=x").unwrap();
        prop_assert!(exchange.finish(last.as_bytes(), &[]).is_err());
    }
}
