//! TLS at the door: asked for, direct, with channel binding, with clients' certificates.

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::api::v1alpha1::TlsMode;
use crate::tls::to_server;

/// An acceptor for `localhost` and the CA to verify it by; clients need a certificate if `demanding`.
fn tls(demanding: bool) -> (Acceptor, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let ca = demanding.then_some(certificate.as_bytes());
    (Acceptor::new(certificate.as_bytes(), key.serialize_pem().as_bytes(), ca).unwrap(), certificate)
}

#[tokio::test]
async fn case_61_scram_with_channel_binding_over_tls() {
    let (acceptor, ca) = tls(false);
    let house = house(Rules { tls: Some(acceptor), ..rules(Auth::ScramSha256) });
    let (port, _stop) = house.open().await;
    let full = to_server(TlsMode::VerifyFull, Some(ca.as_bytes())).unwrap();
    let session = connects(port, full.clone(), "app", "secret").await.unwrap();
    assert!(session.stream.is_tls() && !session.tls.unwrap().resumed);
    assert_eq!(
        connects(port, full.clone(), "app", "wrong").await.unwrap_err().sqlstate,
        Some(SqlState::INVALID_PASSWORD)
    );
    // Sessions are resumed, also by cancel requests, and nothing is forced on those who want none.
    let again = connects(port, full, "app", "secret").await.unwrap();
    assert!(again.tls.unwrap().resumed);
    connect::cancel(&again.addr, 5, b"keys", Duration::from_secs(5)).await.unwrap();
    assert_eq!(house.shop.cancels.lock().unwrap().pop(), Some((5, b"keys".to_vec())));
    assert!(!connects(port, Tls::Disable, "app", "secret").await.unwrap().stream.is_tls());
}

#[tokio::test]
async fn clients_that_must_show_a_certificate() {
    let (acceptor, _) = tls(true);
    let house = house(Rules { tls: Some(acceptor), ..rules(Auth::Trust) });
    let (port, _stop) = house.open().await;
    let plain = connects(port, Tls::Disable, "app", "").await.unwrap_err();
    assert_eq!(plain.sqlstate, Some(SqlState::INVALID_AUTHORIZATION));
    let without = connects(port, to_server(TlsMode::Require, None).unwrap(), "app", "").await.unwrap_err();
    assert_eq!(without.sqlstate, None);
    // Over the unix socket there is no TLS, as in PostgreSQL.
    let (mut client, login) = house.visit();
    client.write_all(&request(SSL_REQUEST)).await.unwrap();
    expect(&mut client, b"N").await;
    client.write_all(&app()).await.unwrap();
    assert!(login.await.unwrap().is_some());
}

async fn direct(port: u16, ca: &str, alpn: &[&[u8]]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let Tls::Require(config) = to_server(TlsMode::VerifyFull, Some(ca.as_bytes())).unwrap() else { panic!() };
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap()
}

#[tokio::test]
async fn case_59_direct_tls() {
    let (acceptor, ca) = tls(false);
    let house = house(Rules { tls: Some(acceptor), ..rules(Auth::Trust) });
    let (port, _stop) = house.open().await;
    let mut client = direct(port, &ca, &[b"postgresql"]).await;
    client.write_all(&app()).await.unwrap();
    expect(&mut client, OK).await;
    let mut client = direct(port, &ca, &[]).await;
    assert!(all(&mut client).await[0].ends_with("without ALPN protocol negotiation extension"));
    // Inside TLS there is nothing more to ask for.
    for code in [SSL_REQUEST, GSS_REQUEST] {
        let mut client = direct(port, &ca, &[b"postgresql"]).await;
        client.write_all(&request(code)).await.unwrap();
        assert_eq!(all(&mut client).await, ["FATAL 08P01 encryption was asked for already"]);
    }
}

#[tokio::test]
async fn case_58_either_request_may_follow_the_other() {
    let (acceptor, ca) = tls(false);
    let house = house(Rules { tls: Some(acceptor), ..rules(Auth::Trust) });
    let (port, _stop) = house.open().await;
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tcp.write_all(&request(GSS_REQUEST)).await.unwrap();
    expect(&mut tcp, b"N").await;
    tcp.write_all(&request(SSL_REQUEST)).await.unwrap();
    expect(&mut tcp, b"S").await;
    let Tls::Require(config) = to_server(TlsMode::VerifyFull, Some(ca.as_bytes())).unwrap() else { panic!() };
    let connector = tokio_rustls::TlsConnector::from(config);
    let mut client = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    client.write_all(&app()).await.unwrap();
    expect(&mut client, OK).await;
    // What is no TLS after the S ends the connection.
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tcp.write_all(&request(SSL_REQUEST)).await.unwrap();
    expect(&mut tcp, b"S").await;
    tcp.write_all(&app()).await.unwrap();
    tcp.read_to_end(&mut Vec::new()).await.unwrap();
}
