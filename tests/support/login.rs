//! A client's login: from the startup packet to the first ReadyForQuery.

use super::connect::{Binding, Connect};
use super::fe;
use super::message::{Message, ServerError};
use super::socket::Socket;
use super::wire::Client;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use sha2::{Digest, Sha256};

/// Answers what the server asks after the startup packet; an ErrorResponse is the error.
pub fn run(client: &mut Client, how: &Connect) -> Result<(), ServerError> {
    let mut scram: Option<ScramSha256> = None;
    loop {
        let lost = |what: &str| ServerError { severity: "FATAL".into(), code: "-----".into(), message: what.into() };
        let message = match client.poll_message(client.timeout()) {
            Ok(Some(message)) => message,
            Ok(None) => return Err(lost("closed during login")),
            Err(_) => return Err(lost("no answer during login")),
        };
        match message.tag {
            b'R' => authenticate(client, &message.body, how, &mut scram),
            b'K' => {
                client.pid = u32::from_be_bytes(message.body[..4].try_into().unwrap());
                client.key = message.body[4..].to_vec();
            }
            b'v' => client.negotiated.push(negotiated(&message.body)),
            b'E' => return Err(ServerError::of(&message)),
            b'Z' => {
                assert_eq!(message.body, b"I");
                return Ok(());
            }
            b'S' => client.note(&message),
            b'N' => client.notices.push(format!("{} {}", message.field(b'C'), message.field(b'M'))),
            _ => panic!("during login came {message:?}"),
        }
    }
}

fn authenticate(client: &mut Client, body: &[u8], how: &Connect, scram: &mut Option<ScramSha256>) {
    let (code, data) = body.split_at(4);
    let password = how.password.as_bytes();
    match u32::from_be_bytes(code.try_into().unwrap()) {
        0 => {}
        3 => client.send(&[fe::password(&[password, b"\0"].concat())]),
        5 => {
            let hash = md5_hash(how.user.as_bytes(), password, data.try_into().unwrap());
            client.send(&[fe::password(&[hash.as_bytes(), b"\0"].concat())]);
        }
        10 => {
            let offered = String::from_utf8_lossy(data).contains("SCRAM-SHA-256-PLUS");
            let (mechanism, binding) = bind(&client.socket, how.binding, offered);
            let exchange = scram.insert(ScramSha256::new(password, binding));
            client.send(&[sasl_initial(mechanism, exchange.message())]);
        }
        11 => {
            let exchange = scram.as_mut().unwrap();
            exchange.update(data).unwrap();
            let answer = fe::password(exchange.message());
            client.send(&[answer]);
        }
        12 => scram.as_mut().unwrap().finish(data).unwrap(),
        other => panic!("authentication {other} is not known to the tests"),
    }
}

/// SASLInitialResponse.
pub fn sasl_initial(mechanism: &str, first: &[u8]) -> Vec<u8> {
    let mut body = mechanism.as_bytes().to_vec();
    body.push(0);
    body.extend_from_slice(&u32::try_from(first.len()).unwrap().to_be_bytes());
    body.extend_from_slice(first);
    fe::password(&body)
}

fn bind(socket: &Socket, binding: Binding, offered: bool) -> (&'static str, ChannelBinding) {
    let plain = "SCRAM-SHA-256";
    match (socket, binding) {
        (_, Binding::Claim) => (plain, ChannelBinding::unrequested()),
        (Socket::Tls(tls), Binding::Auto) if offered => {
            // tls-server-end-point: the certificate's hash, by its signature's own function (SHA-256 here).
            let certificate = &tls.conn.peer_certificates().unwrap()[0];
            let hash = Sha256::digest(certificate).to_vec();
            ("SCRAM-SHA-256-PLUS", ChannelBinding::tls_server_end_point(hash))
        }
        (Socket::Tls(_), Binding::Auto) => (plain, ChannelBinding::unrequested()),
        _ => (plain, ChannelBinding::unsupported()),
    }
}

fn negotiated(body: &[u8]) -> (u32, Vec<String>) {
    let number = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().unwrap());
    let texts = Message { tag: b'v', body: body[8..].to_vec() }.texts();
    let count = usize::try_from(number(4)).unwrap();
    (number(0), texts.into_iter().take(count).collect())
}
