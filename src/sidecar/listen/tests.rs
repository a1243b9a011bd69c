#![allow(clippy::unwrap_used)]
//! Clients that are scripts, against the door itself.

mod tls;

use std::sync::Mutex;

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::accept::accept;
use super::login::login;
use super::sockets::Listener;
use super::*;

use crate::pg::auth::Secret;
use crate::pg::connect::{self, ConnectError, Credentials, Phase, Session, Target, Tls};
use crate::pg::frame;
use crate::pg::message::{self, ErrorFields};
use crate::pg::startup::{CANCEL_REQUEST, GSS_REQUEST, SSL_REQUEST, startup_message};

/// Serves `shop` to `app`, whose password is `secret`, and remembers cancels.
struct Shop {
    verifiers: Vec<Verifier>,
    cancels: Mutex<Vec<(i32, Vec<u8>)>>,
    refused: Mutex<Vec<String>>,
}

impl Front for Shop {
    type Database = &'static str;

    fn find(&self, database: &str, user: &str, _: Instant) -> Result<Found<&'static str>, Unknown> {
        match (database, user) {
            ("shop", "app") => Ok(Found { database: "shop", verifiers: self.verifiers.clone() }),
            ("shop", _) => Err(Unknown::User { served: vec!["app".into()] }),
            _ => Err(Unknown::Database { served: vec!["shop".into(), "other".into()] }),
        }
    }

    fn newest_minor(&self, _: &str) -> u16 {
        2
    }

    fn is_own(&self, _: &StartupSet) -> bool {
        false
    }

    fn refused(&self, code: SqlState) {
        self.refused.lock().unwrap().push(code.as_str().to_owned());
    }

    async fn cancel(&self, pid: i32, key: &[u8]) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.cancels.lock().unwrap().push((pid, key.to_vec()));
    }
}

struct House {
    door: Arc<Door>,
    shop: Arc<Shop>,
}

fn rules(auth: Auth) -> Rules {
    Rules {
        auth,
        tls: None,
        max_clients: 100,
        max_startup_packet: 10_000,
        login_timeout: Duration::from_secs(20),
        keepalive: None,
    }
}

fn house(rules: Rules) -> House {
    // Computed once: it takes a while without optimisation.
    static SECRET: std::sync::LazyLock<(Salt, Verifier)> = std::sync::LazyLock::new(|| {
        let salt = Salt::random().unwrap();
        (salt, Verifier::new("secret", salt))
    });
    let (salt, verifiers) = (SECRET.0, vec![SECRET.1.clone()]);
    let shop = Shop { verifiers, cancels: Mutex::default(), refused: Mutex::default() };
    House { door: Arc::new(Door::new(rules, salt)), shop: Arc::new(shop) }
}

/// A login under way.
type Visit = tokio::task::JoinHandle<Option<(&'static str, Login, Place)>>;

impl House {
    /// A client at the door, and what becomes of its login.
    fn visit(&self) -> (UnixStream, Visit) {
        let (client, ours) = UnixStream::pair().unwrap();
        let place = self.door.enter();
        let shop = Arc::clone(&self.shop);
        let visit = async {
            let (database, mut login, place) = login(Stream::Unix(ours), "unix".into(), shop, place).await?;
            login.stream.write_all(&login.accepted).await.unwrap();
            login.stream.flush().await.unwrap();
            Some((database, login, place))
        };
        (client, tokio::spawn(visit))
    }

    /// Serves whoever logs in by saying what a server says, over TCP. The address, and what stops it.
    async fn open(&self) -> (u16, CancellationToken) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let (door, shop) = (Arc::clone(&self.door), Arc::clone(&self.shop));
        tokio::spawn(accept(Listener::Tcp(listener), door, shop, stop.clone(), serve));
        (port, stop)
    }
}

async fn serve(_: &'static str, mut login: Login) {
    let mut out = login.accepted.to_vec();
    message::backend_key_data(&mut out, 1, b"1234");
    message::ready_for_query(&mut out, b'I');
    login.stream.write_all(&out).await.unwrap();
    login.stream.flush().await.unwrap();
    let _ = login.stream.read(&mut [0; 64]).await;
}

fn request(code: i32) -> Vec<u8> {
    [8i32.to_be_bytes(), code.to_be_bytes()].concat()
}

fn hello(minor: u16, user: &str, database: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    startup_message(&mut out, minor, user, database, more.iter().copied());
    out
}

fn app() -> Vec<u8> {
    hello(0, "app", "shop", &[])
}

/// Everything until the other side closes, as tags with what matters of each.
async fn all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<String> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let mut bytes = &bytes[..];
    let mut said = Vec::new();
    while let Some(frame) = frame::whole(bytes).unwrap() {
        said.push(match frame.tag {
            b'E' => {
                let fields = ErrorFields::parse(frame.body).unwrap();
                format!("{} {} {}", fields.severity, fields.code, fields.message)
            }
            tag => format!("{} {}", char::from(tag), frame.body.escape_ascii()),
        });
        bytes = &bytes[frame.total()..];
    }
    assert!(bytes.is_empty());
    said
}

/// What a client that says `bytes` hears, when nobody gets in.
async fn turned_away(house: &House, bytes: &[u8]) -> Vec<String> {
    let (mut client, login) = house.visit();
    let _ = client.write_all(bytes).await;
    let _ = client.shutdown().await;
    let said = all(&mut client).await;
    assert!(login.await.unwrap().is_none());
    assert_eq!(house.door.connections(), 0);
    said
}

const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";

async fn expect(stream: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, bytes, "{}", read.escape_ascii());
}

#[tokio::test]
async fn trust_lets_in_at_once() {
    let house = house(rules(Auth::Trust));
    let (mut client, login) = house.visit();
    client.write_all(&hello(0, "app", "shop", &[("TimeZone", "UTC")])).await.unwrap();
    client.write_all(b"early").await.unwrap();
    expect(&mut client, OK).await;
    let (database, login, place) = login.await.unwrap().unwrap();
    assert_eq!((database, login.minor, &*login.peer, &*login.early), ("shop", 0, "unix", &b"early"[..]));
    assert_eq!(login.set.get("timezone"), Some("UTC"));
    assert_eq!(house.door.connections(), 1);
    drop(place);
    assert_eq!((house.door.connections(), house.door.clients.load(Ordering::Relaxed)), (0, 0));
}

#[tokio::test]
async fn case_60_one_byte_at_a_time() {
    let house = house(rules(Auth::Trust));
    let (mut client, login) = house.visit();
    for byte in [request(SSL_REQUEST), request(GSS_REQUEST)] {
        for byte in byte {
            client.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        expect(&mut client, b"N").await;
    }
    for byte in hello(2, "app", "shop", &[]) {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    expect(&mut client, OK).await;
    let (_, login, _) = login.await.unwrap().unwrap();
    assert_eq!((login.minor, login.early.len()), (2, 0));
}

#[tokio::test]
async fn case_60_packets_that_lie() {
    let house = house(rules(Auth::Trust));
    for length in [0u32, 4, 7, 10_001, 0x7fff_ffff, u32::MAX] {
        let said = turned_away(&house, &length.to_be_bytes()).await;
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("FATAL 08P01 invalid length of startup packet"), "{said:?}");
    }
    let long = hello(0, "app", "shop", &[("application_name", &"x".repeat(10_000))]);
    assert!(turned_away(&house, &long).await[0].contains("at most 10000"));
    assert!(
        turned_away(&house, &request(2 << 16)).await[0].starts_with("FATAL 0A000 unsupported frontend protocol 2.0")
    );
    // A client that leaves in the middle is told nothing.
    assert!(turned_away(&house, b"").await.is_empty());
    assert!(turned_away(&house, &app()[..20]).await.is_empty());
    // A whole packet that makes no sense.
    let no_end = [&b"\0\0\0\x0e\0\x03\0\0"[..], b"user\0x"].concat();
    assert!(turned_away(&house, &no_end).await[0].starts_with("FATAL 08P01 invalid startup packet layout"));
}

#[tokio::test]
async fn case_57_newer_versions_and_unknown_options() {
    let house = house(rules(Auth::Trust));
    for (minor, options, negotiated) in [
        (9999, &[][..], Some(b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0".to_vec())),
        (0, &[("_pq_.x", "1")][..], Some(b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0".to_vec())),
        (1, &[], None),
        (2, &[], None),
    ] {
        let (mut client, login) = house.visit();
        client.write_all(&hello(minor, "app", "shop", options)).await.unwrap();
        expect(&mut client, &negotiated.unwrap_or_default()).await;
        expect(&mut client, OK).await;
        let (_, login, _) = login.await.unwrap().unwrap();
        assert_eq!(login.minor, if minor >= 2 { 2 } else { 0 });
        assert_eq!(login.set, StartupSet::default());
    }
}

#[tokio::test]
async fn case_58_bytes_after_a_request_for_encryption() {
    let house = house(rules(Auth::Trust));
    for (code, name) in [(SSL_REQUEST, "SSL"), (GSS_REQUEST, "GSSAPI encryption")] {
        let said = turned_away(&house, &[request(code), app()].concat()).await;
        assert_eq!(said, [format!("FATAL 08P01 received unencrypted data after {name} request")]);
    }
}

#[tokio::test]
async fn case_58_each_request_once() {
    let house = house(rules(Auth::Trust));
    for code in [SSL_REQUEST, GSS_REQUEST] {
        let (mut client, _login) = house.visit();
        client.write_all(&request(code)).await.unwrap();
        expect(&mut client, b"N").await;
        client.write_all(&request(code)).await.unwrap();
        assert_eq!(all(&mut client).await, ["FATAL 08P01 encryption was asked for already"]);
    }
}

#[tokio::test]
async fn case_5_a_cancel_is_never_answered() {
    let house = house(rules(Auth::Trust));
    let packet = |key: &[u8]| {
        let mut out = Vec::new();
        message::cancel_request(&mut out, 7, key);
        out
    };
    for key in [&b"1234"[..], &[9; 32]] {
        assert!(turned_away(&house, &packet(key)).await.is_empty());
        // The connection stayed until the cancel was done.
        assert_eq!(house.shop.cancels.lock().unwrap().pop(), Some((7, key.to_vec())));
    }
    let no_key = [12i32.to_be_bytes(), CANCEL_REQUEST.to_be_bytes(), 7i32.to_be_bytes()].concat();
    assert!(turned_away(&house, &no_key).await.is_empty(), "not even one that makes no sense");
}

#[tokio::test]
async fn decision_14_what_is_served_is_named() {
    let house = house(rules(Auth::ScramSha256));
    let said = turned_away(&house, &hello(0, "app", "store", &[])).await;
    assert_eq!(said, ["FATAL 3D000 database \"store\" is not served here, only \"shop\", \"other\" are"]);
    let said = turned_away(&house, &hello(0, "root", "shop", &[])).await;
    assert_eq!(said, ["FATAL 28P01 user \"root\" is not served by database \"shop\", only \"app\" is"]);
}

#[tokio::test]
async fn case_67_replication_and_the_missing_database() {
    let house = house(rules(Auth::Trust));
    for value in ["database", "true", "1"] {
        let said = turned_away(&house, &hello(0, "app", "shop", &[("replication", value)])).await;
        assert_eq!(said, ["FATAL 0A000 replication connections are not supported by a pooler"]);
    }
    let said = turned_away(&house, &hello(0, "shop", "", &[])).await;
    assert_eq!(said, ["FATAL 28P01 user \"shop\" is not served by database \"shop\", only \"app\" is"]);
    let said = turned_away(&house, &hello(0, "", "shop", &[])).await;
    assert!(said[0].starts_with("FATAL 28000 no PostgreSQL user name"));
}

#[tokio::test]
async fn too_many_clients_are_told_so_and_can_still_cancel() {
    let house = house(Rules { max_clients: 1, ..rules(Auth::Trust) });
    let (mut client, first) = house.visit();
    client.write_all(&app()).await.unwrap();
    let first = first.await.unwrap().unwrap();
    let (mut client, second) = house.visit();
    client.write_all(&app()).await.unwrap();
    assert_eq!(all(&mut client).await, ["FATAL 53300 sorry, too many clients already: the limit is 1"]);
    assert_eq!(*house.shop.refused.lock().unwrap(), ["53300"]);
    drop(client);
    assert!(second.await.unwrap().is_none());
    let mut cancel = Vec::new();
    message::cancel_request(&mut cancel, 7, b"1234");
    let (mut client, third) = house.visit();
    client.write_all(&cancel).await.unwrap();
    assert!(third.await.unwrap().is_none());
    assert_eq!(house.shop.cancels.lock().unwrap().len(), 1);
    drop(first);
    let (mut client, fourth) = house.visit();
    client.write_all(&app()).await.unwrap();
    assert!(fourth.await.unwrap().is_some());
}

#[tokio::test]
async fn a_login_takes_only_so_long() {
    let house = house(Rules { login_timeout: Duration::from_millis(50), ..rules(Auth::ScramSha256) });
    for bytes in [vec![], app()[..10].to_vec(), app()] {
        let (mut client, login) = house.visit();
        client.write_all(&bytes).await.unwrap();
        let started = tokio::time::Instant::now();
        let said = all(&mut client).await;
        assert!(said.last().unwrap().starts_with("FATAL 57014 canceling authentication"), "{said:?}");
        assert!(started.elapsed() >= Duration::from_millis(50));
        // It does not leave; it is not waited for.
        assert!(login.await.unwrap().is_none());
    }
}

/// Logs in over TCP as a server's client does.
async fn connects(port: u16, tls: Tls, user: &str, password: &str) -> Result<Session, ConnectError> {
    let host = "localhost".to_owned();
    let target = Target { host, port, tls, timeout: Duration::from_secs(20), keepalive: None, bare: true };
    let who = [Credentials { user: user.into(), password: Secret::new(password) }];
    connect::connect(&target, &who, "shop", &StartupSet::default(), &[]).await
}

#[tokio::test]
async fn scram_over_tcp() {
    let house = house(rules(Auth::ScramSha256));
    let (port, stop) = house.open().await;
    assert_eq!(connects(port, Tls::Disable, "app", "secret").await.unwrap().pid, 1);
    let wrong = connects(port, Tls::Disable, "app", "Secret").await.unwrap_err();
    assert_eq!(wrong.sqlstate, Some(SqlState::INVALID_PASSWORD));
    assert_eq!(wrong.server.unwrap().message, "password authentication failed for user \"app\"");
    let stranger = connects(port, Tls::Disable, "root", "secret").await.unwrap_err();
    assert_eq!(stranger.sqlstate, Some(SqlState::INVALID_PASSWORD));
    stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(connects(port, Tls::Disable, "app", "secret").await.unwrap_err().phase, Phase::Tcp);
}

#[tokio::test]
async fn a_login_that_is_no_scram() {
    let house = house(rules(Auth::ScramSha256));
    let first = |mechanism: &str, data: &[u8]| {
        let mut out = app();
        message::sasl_initial_response(&mut out, mechanism, data);
        out
    };
    let cut = [&app()[..], b"p\0\0\0\x06xy"].concat();
    let none = [&app()[..], b"p\0\0\0\x16SCRAM-SHA-256\0\xff\xff\xff\xff"].concat();
    let long = [&app()[..], b"p\0\0\x10\x05"].concat();
    for (bytes, code) in [
        (first("SCRAM-SHA-256", b"nonsense"), "08P01"),
        (first("SCRAM-SHA-256", b"n,a=x,n=,r=x"), "0A000"),
        (first("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=x"), "08P01"),
        (first("PLAIN", b"\0app\0secret"), "08P01"),
        (cut, "08P01"),
        (none, "08P01"),
        (long, "08P01"),
        ([&app()[..], b"Q\0\0\0\x05\0"].concat(), "08P01"),
        ([&app()[..], b"p\0\0\0\x03"].concat(), "08P01"),
    ] {
        let said = turned_away(&house, &bytes).await;
        assert!(said[0].starts_with("R "), "{said:?}");
        assert!(said[1].starts_with(&format!("FATAL {code} ")), "{said:?}");
    }
    let leaves = [&app()[..], b"X\0\0\0\x04"].concat();
    assert_eq!(turned_away(&house, &leaves).await.len(), 1);
}

#[tokio::test]
async fn nobody_comes_in_while_all_places_are_taken() {
    let house = house(Rules { max_clients: 0, ..rules(Auth::Trust) });
    let (port, _stop) = house.open().await;
    let places: Vec<_> = (0..STANDING).map(|_| house.door.enter()).collect();
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    client.write_all(&app()).await.unwrap();
    let mut byte = [0];
    let waits = tokio::time::timeout(Duration::from_millis(50), client.read(&mut byte)).await;
    assert!(waits.is_err(), "not accepted");
    drop(places);
    assert_eq!(all(&mut client).await, ["FATAL 53300 sorry, too many clients already: the limit is 0"]);
    // Other rules count from the next connection on.
    house.door.set_rules(rules(Auth::Trust));
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    client.write_all(&app()).await.unwrap();
    expect(&mut client, OK).await;
}

#[tokio::test]
async fn unix_sockets_and_panics() {
    let house = house(rules(Auth::Trust));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
    let (door, shop) = (Arc::clone(&house.door), Arc::clone(&house.shop));
    let serve = |_, login: Login| async move {
        assert!(login.early.is_empty(), "this one panics");
        serve("", login).await;
    };
    tokio::spawn(accept(listener, door, shop, CancellationToken::new(), serve));
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(&[app(), b"early".to_vec()].concat()).await.unwrap();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    // It took nobody with it, and its place is free.
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(&app()).await.unwrap();
    expect(&mut client, OK).await;
    assert_eq!(house.door.connections(), 1);
}

#[test]
fn a_client_that_waits_costs_little() {
    // Only the proxy's own future may weigh: everything of a login lies in a box that is gone by then.
    assert!(size_of::<Place>() <= 16);
    assert!(size_of::<Login>() <= 128, "{}", size_of::<Login>());
}

/// Sends bytes to a door and reads what it says: it always closes, and only ever with an error.
async fn survives(house: &House, mut client: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) {
    let _ = client.write_all(bytes).await;
    let _ = client.shutdown().await;
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut said)).await;
    assert!(end.is_ok(), "{}", bytes.escape_ascii());
    assert_eq!(house.door.clients.load(Ordering::Relaxed), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..60), cut in any::<prop::sample::Index>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = house(rules(Auth::ScramSha256));
            // Alone; where a packet's rest was due; and after a right one.
            let start = app();
            for prefix in [&[][..], &start[..cut.index(start.len())], &start[..]] {
                let (client, login) = house.visit();
                survives(&house, client, &[prefix, &bytes[..]].concat()).await;
                assert!(login.await.unwrap().is_none());
            }
        });
    }
}
