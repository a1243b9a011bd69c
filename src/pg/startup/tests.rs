#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn packet(code: i32, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    sized(&mut out, |out| {
        out.extend(code.to_be_bytes());
        out.extend(rest);
    });
    out
}

fn version(minor: u16) -> i32 {
    3 << 16 | i32::from(minor)
}

fn read(packet: &[u8]) -> Result<Initial, StartupError> {
    initial(packet, MAX_PACKET).map(|found| {
        let (initial, total) = found.unwrap();
        assert_eq!(total, packet.len());
        initial
    })
}

fn read_startup(rest: &[u8]) -> Result<Startup, StartupError> {
    read(&packet(version(0), rest)).map(|initial| match initial {
        Initial::Startup(startup) => startup,
        other => panic!("{other:?}"),
    })
}

#[test]
fn in_one_byte_pieces() {
    let packet = packet(version(0), b"user\0app\0database\0shop\0application_name\0x\0\0");
    for n in 0..packet.len() {
        assert_eq!(initial(&packet[..n], MAX_PACKET), Ok(None));
    }
    let Ok(Initial::Startup(startup)) = read(&packet) else { panic!() };
    assert_eq!((&*startup.user, &*startup.database), ("app", "shop"));
    assert_eq!(startup.parameters, [("application_name".into(), "x".into())]);
    assert!(!startup.replication && !startup.needs_negotiation(2));
}

#[test]
fn bytes_that_follow_are_not_taken() {
    let mut two = packet(SSL_REQUEST, b"");
    two.extend(b"more");
    assert_eq!(initial(&two, MAX_PACKET), Ok(Some((Initial::Ssl, 8))));
}

#[test]
fn absurd_lengths_are_refused_before_anything_is_read() {
    for length in [0, 1, 3, 4, 7, 10_001, 0x7fff_ffff, u32::MAX] {
        let wrong = StartupError::Length { length, max: MAX_PACKET };
        assert_eq!(initial(&length.to_be_bytes(), MAX_PACKET), Err(wrong));
    }
    assert_eq!(initial(&8u32.to_be_bytes(), MAX_PACKET), Ok(None));
    assert_eq!(initial(&10_000u32.to_be_bytes(), MAX_PACKET), Ok(None));
    // A TLS ClientHello where a packet was expected.
    assert!(initial(b"\x16\x03\x01\x02\0", MAX_PACKET).is_err());
}

#[test]
fn requests() {
    assert_eq!(read(&packet(SSL_REQUEST, b"")), Ok(Initial::Ssl));
    assert_eq!(read(&packet(GSS_REQUEST, b"")), Ok(Initial::Gss));
    assert!(read(&packet(SSL_REQUEST, b"x")).is_err());
    assert!(read(&packet(GSS_REQUEST, b"x")).is_err());
}

#[test]
fn cancels_with_keys_of_every_length() {
    let cancel = |key: &[u8]| read(&packet(CANCEL_REQUEST, &[&7i32.to_be_bytes(), key].concat()));
    for length in [1, 4, 32, 256] {
        let key = vec![9; length];
        assert_eq!(cancel(&key), Ok(Initial::Cancel { pid: 7, key }));
    }
    // Malformed: nobody's key, so that it is dropped without an answer.
    assert_eq!(cancel(b""), Ok(Initial::Cancel { pid: 7, key: vec![] }));
    assert_eq!(cancel(&[9; 257]), Ok(Initial::Cancel { pid: 7, key: vec![] }));
    assert_eq!(read(&packet(CANCEL_REQUEST, b"\0\0\x07")), Ok(Initial::Cancel { pid: 0, key: vec![] }));
}

#[test]
fn versions() {
    assert_eq!(read(&packet(2 << 16, b"")), Err(StartupError::Version(2, 0)));
    assert_eq!(read(&packet(4 << 16 | 1, b"user\0u\0\0")), Err(StartupError::Version(4, 1)));
    for (minor, negotiated, told) in [(0, 0, false), (1, 0, false), (2, 2, false), (3, 2, true), (9999, 2, true)] {
        let Ok(Initial::Startup(startup)) = read(&packet(version(minor), b"user\0u\0\0")) else { panic!() };
        assert_eq!((startup.minor, startup.negotiated(2), startup.needs_negotiation(2)), (minor, negotiated, told));
        assert_eq!((startup.negotiated(0), startup.needs_negotiation(0)), (0, minor > 0), "servers before 18");
    }
}

#[test]
fn unknown_protocol_options_are_named() {
    let startup = read_startup(b"user\0u\0_pq_.grease\0yes\0_pq_.b\0\0\0").unwrap();
    assert_eq!(startup.unknown_options, ["_pq_.grease", "_pq_.b"]);
    assert!(startup.parameters.is_empty());
    assert!(startup.needs_negotiation(2));
}

#[test]
fn the_database_defaults_to_the_user() {
    assert_eq!(read_startup(b"user\0u\0\0").unwrap().database, "u");
    assert_eq!(read_startup(b"user\0u\0database\0\0\0").unwrap().database, "u");
    assert_eq!(read_startup(b"database\0d\0user\0u\0\0").unwrap().database, "d");
}

#[test]
fn what_does_not_add_up() {
    assert_eq!(read_startup(b"\0"), Err(StartupError::NoUser));
    assert_eq!(read_startup(b"user\0\0\0"), Err(StartupError::NoUser));
    for wrong in [&b""[..], b"user", b"user\0", b"user\0u", b"user\0u\0", b"user\0u\0\0x", b"user\0u\0\0\0"] {
        assert_eq!(read_startup(wrong), Err(StartupError::Layout), "{wrong:?}");
    }
    assert_eq!(read_startup(b"user\0\xff\0\0"), Err(StartupError::Encoding));
    assert_eq!(read_startup(b"\xff\0u\0\0"), Err(StartupError::Encoding));
}

#[test]
fn replication_as_postgresql_reads_it() {
    let replication = |value: &str| {
        read_startup(format!("user\0u\0replication\0{value}\0\0").as_bytes()).map(|startup| startup.replication)
    };
    for yes in ["database", "true", "TRUE", "t", "yes", "y", "on", "1"] {
        assert_eq!(replication(yes), Ok(true), "{yes}");
    }
    for no in ["false", "f", "no", "n", "off", "of", "0"] {
        assert_eq!(replication(no), Ok(false), "{no}");
    }
    for wrong in ["", "o", "2", "maybe", "truer", "data"] {
        assert_eq!(replication(wrong), Err(StartupError::Replication), "{wrong}");
    }
}

#[test]
fn every_refusal_has_a_code() {
    let code = |error: StartupError| error.sqlstate();
    assert_eq!(code(StartupError::Length { length: 0, max: 1 }), SqlState::PROTOCOL_VIOLATION);
    assert_eq!(code(StartupError::Layout), SqlState::PROTOCOL_VIOLATION);
    assert_eq!(code(StartupError::Version(2, 0)), SqlState::FEATURE_NOT_SUPPORTED);
    assert_eq!(code(StartupError::NoUser), SqlState::INVALID_AUTHORIZATION);
    assert_eq!(code(StartupError::Encoding), SqlState::CHARACTER_NOT_IN_REPERTOIRE);
    assert_eq!(code(StartupError::Replication), SqlState::INVALID_PARAMETER_VALUE);
}

fn hash(set: &StartupSet) -> u64 {
    use std::hash::BuildHasher;
    std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(set)
}

#[test]
fn sets_are_equal_whatever_the_order_and_case() {
    let one = StartupSet::new([("TimeZone", "UTC"), ("application_name", ""), ("datestyle", "ISO")]);
    let two =
        StartupSet::new([("DateStyle", "old"), ("Application_Name", ""), ("timezone", "UTC"), ("DATESTYLE", "ISO")]);
    assert_eq!(one, two);
    assert_eq!(hash(&one), hash(&two));
    assert_eq!(one, one.clone());
    assert_eq!(one.get("datestyle"), Some("ISO"));
    assert_eq!(one.get("nothing"), None);
    assert_eq!(format!("{one:?}"), r#"{"application_name": "", "datestyle": "ISO", "timezone": "UTC"}"#);
    let three = StartupSet::new([("timezone", "utc"), ("application_name", ""), ("datestyle", "ISO")]);
    assert_ne!(one, three);
    assert_ne!(hash(&one), hash(&three));
    assert_ne!(one, StartupSet::default());
}

#[test]
fn a_setting_never_becomes_the_user() {
    let set = StartupSet::new([("user", "a"), ("User", "root"), ("replication", "1"), ("_pq_.a", ""), ("_PQ_.a", "")]);
    let names: Vec<_> = set.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["User", "_PQ_.a"]);
    assert_eq!(StartupSet::new([("Options", "x")]).iter().next(), Some(("Options", "x")));
    assert_eq!(StartupSet::new([("options", "x")]).get("options"), Some("x"));
}

#[test]
fn built_and_read_again() {
    let mut out = Vec::new();
    startup_message(&mut out, 2, "u", "d", [("a", "b")]);
    let Ok(Initial::Startup(startup)) = read(&out) else { panic!() };
    assert_eq!((startup.minor, &*startup.user, &*startup.database), (2, "u", "d"));
    assert_eq!(startup.parameters, [("a".into(), "b".into())]);
    let mut out = Vec::new();
    ssl_request(&mut out);
    assert_eq!(read(&out), Ok(Initial::Ssl));
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(Some((_, total))) = initial(&bytes, MAX_PACKET) {
            prop_assert!(total <= bytes.len());
        }
    }

    #[test]
    fn any_body(minor in any::<u16>(), body in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(Some((Initial::Startup(startup), _))) = initial(&packet(version(minor), &body), MAX_PACKET) {
            prop_assert!(!startup.user.is_empty() && !startup.database.is_empty());
        }
    }

    #[test]
    fn any_names(names in proptest::collection::vec(("[a-zA-Z_.\0]{0,8}", "[a-z]{0,2}"), 0..8)) {
        let set = StartupSet::new(names);
        let mut sorted: Vec<_> = set.iter().map(|(name, _)| name.to_owned()).collect();
        sorted.dedup();
        prop_assert!(sorted.is_sorted());
        for name in sorted {
            prop_assert!(set.get(&name).is_some());
            prop_assert!(normal(&name).is_some());
        }
    }
}
