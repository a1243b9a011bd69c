#![allow(clippy::unwrap_used)]
use super::read::MAX_MECHANISMS;
use super::*;
use crate::pg::frame;
use proptest::prelude::*;

/// The one frame in `out`, whose length must be right.
fn only(out: &[u8]) -> (u8, &[u8]) {
    let frame = frame::whole(out).unwrap().unwrap();
    assert_eq!(frame.total(), out.len());
    (frame.tag, frame.body)
}

fn built(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    build(&mut out);
    out
}

#[test]
fn an_error_comes_back_as_it_was_built() {
    let out = built(|out| {
        error_response(out, Severity::Fatal, &SqlState::TOO_MANY_CONNECTIONS, "full", Some("20 of 20"), Some("wait"));
    });
    let (tag, body) = only(&out);
    assert_eq!(tag, b'E');
    let fields = ErrorFields::parse(body).unwrap();
    assert_eq!(fields.severity, "FATAL");
    assert_eq!(fields.sqlstate(), Some(SqlState::TOO_MANY_CONNECTIONS));
    assert_eq!((&*fields.message, &*fields.detail, &*fields.hint), ("full", "20 of 20", "wait"));
}

#[test]
fn an_error_without_detail_and_hint() {
    let out = built(|out| error_response(out, Severity::Error, &SqlState::QUERY_CANCELED, "stop", None, None));
    assert_eq!(only(&out).1, b"SERROR\0VERROR\0C57014\0Mstop\0\0");
}

#[test]
fn a_nul_inside_a_text_does_not_start_a_field() {
    let out = built(|out| error_response(out, Severity::Error, &SqlState::QUERY_CANCELED, "a\0Rb", None, None));
    assert_eq!(only(&out).1, b"SERROR\0VERROR\0C57014\0Ma\0\0");
}

#[test]
fn errors_of_strange_servers() {
    assert_eq!(ErrorFields::parse(b""), None);
    assert_eq!(ErrorFields::parse(b"\0"), None);
    assert_eq!(ErrorFields::parse(b"Mno end"), None);
    // What could be read before the end is kept.
    assert_eq!(ErrorFields::parse(b"Mhere\0Dcut").unwrap().message, "here");
    let fields = ErrorFields::parse(b"SFEHLER\0M\xffx\0Zunknown\0Rauth_failed\0\0").unwrap();
    assert_eq!((fields.severity, &*fields.message, fields.routine), ("FEHLER", "\u{fffd}x", "auth_failed"));
    assert_eq!(fields.sqlstate(), None);
    let fields = ErrorFields::parse(b"SFEHLER\0VERROR\0\0").unwrap();
    assert_eq!(fields.severity, "ERROR");
}

#[test]
fn what_servers_send_is_built_to_the_letter() {
    let cases: [(Vec<u8>, &[u8]); 8] = [
        (built(|o| ready_for_query(o, b'T')), b"Z\0\0\0\x05T"),
        (built(|o| parameter_status(o, "a", "b")), b"S\0\0\0\x08a\0b\0"),
        (built(|o| backend_key_data(o, 7, b"keys")), b"K\0\0\0\x0c\0\0\0\x07keys"),
        (built(authentication_ok), b"R\0\0\0\x08\0\0\0\0"),
        (built(|o| authentication_sasl(o, &["A", "B"])), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"),
        (built(|o| authentication_sasl_continue(o, b"x")), b"R\0\0\0\x09\0\0\0\x0bx"),
        (built(|o| authentication_sasl_final(o, b"y")), b"R\0\0\0\x09\0\0\0\x0cy"),
        (built(|o| negotiate_protocol_version(o, 2, &["_pq_.x".into()])), b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0"),
    ];
    for (built, expected) in cases {
        assert_eq!(built, expected);
    }
}

#[test]
fn what_clients_send_is_built_to_the_letter() {
    let cases: [(Vec<u8>, &[u8]); 9] = [
        (built(terminate), b"X\0\0\0\x04"),
        (built(|o| query(o, "S")), b"Q\0\0\0\x06S\0"),
        (built(|o| parse(o, b"n", b"S", b"\0\0")), b"P\0\0\0\x0an\0S\0\0\0"),
        (built(|o| close_statement(o, b"n")), b"C\0\0\0\x07Sn\0"),
        (built(sync), b"S\0\0\0\x04"),
        (built(|o| password(o, b"pw")), b"p\0\0\0\x07pw\0"),
        (built(|o| sasl_initial_response(o, "M", b"abc")), b"p\0\0\0\x0dM\0\0\0\0\x03abc"),
        (built(|o| sasl_response(o, b"abc")), b"p\0\0\0\x07abc"),
        (built(|o| cancel_request(o, 1, b"keys")), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01keys"),
    ];
    for (built, expected) in cases {
        assert_eq!(built, expected);
    }
}

#[test]
fn builders_append() {
    let mut out = b"before".to_vec();
    sync(&mut out);
    assert_eq!(out, b"beforeS\0\0\0\x04");
}

#[test]
fn authentication_requests() {
    let parse = |code: i32, rest: &'static [u8]| {
        let mut body = code.to_be_bytes().to_vec();
        body.extend(rest);
        format!("{:?}", Authentication::parse(&body))
    };
    assert_eq!(parse(0, b""), "Some(Ok)");
    assert_eq!(parse(3, b""), "Some(Cleartext)");
    assert_eq!(parse(5, b"\x01\x02\x03\x04"), "Some(Md5([1, 2, 3, 4]))");
    assert_eq!(parse(5, b"\x01\x02\x03"), "None");
    assert_eq!(parse(10, b"A\0B\0\0"), r#"Some(Sasl(["A", "B"]))"#);
    assert_eq!(parse(10, b"A\0B"), "None");
    assert_eq!(parse(10, b"A\0\xff\0\0"), r#"Some(Sasl(["A", ""]))"#);
    assert_eq!(parse(11, b"hi"), "Some(SaslContinue([104, 105]))");
    assert_eq!(parse(12, b"hi"), "Some(SaslFinal([104, 105]))");
    assert_eq!(parse(7, b""), "Some(Other(7))");
    assert_eq!(Authentication::parse(b"\0\0\0"), None);
}

#[test]
fn a_server_cannot_offer_endless_mechanisms() {
    let mut body = 10i32.to_be_bytes().to_vec();
    body.extend(b"X\0".repeat(1000));
    let Some(Authentication::Sasl(mechanisms)) = Authentication::parse(&body) else { panic!() };
    assert_eq!(mechanisms.len(), MAX_MECHANISMS);
}

#[test]
fn parameter_status_and_key_data() {
    assert_eq!(read_parameter_status(b"a\0b\0"), Some(("a", "b")));
    assert_eq!(read_parameter_status(b"a\0\0"), Some(("a", "")));
    for wrong in [&b""[..], b"a", b"a\0b", b"\xff\0b\0", b"a\0\xff\0"] {
        assert_eq!(read_parameter_status(wrong), None);
    }
    assert_eq!(read_backend_key_data(b"\0\0\0\x07keys"), Some((7, &b"keys"[..])));
    assert_eq!(read_backend_key_data(b"\0\0\0\x07"), Some((7, &b""[..])));
    assert_eq!(read_backend_key_data(b"\0\0\x07"), None);
    let long = [0; 4 + 256];
    assert_eq!(read_backend_key_data(&long).unwrap().1.len(), 256);
    assert_eq!(read_backend_key_data(&[0; 4 + 257]), None);
}

#[test]
fn a_reader_stops_where_the_body_does() {
    let mut reader = Reader::new(b"\x01\x02\x03\0\0\0\x04ab\0rest");
    assert_eq!(reader.u8(), Some(1));
    assert_eq!(reader.i16(), Some(0x203));
    assert_eq!(reader.i32(), Some(4));
    assert_eq!(reader.cstr(), Some(&b"ab"[..]));
    assert_eq!(reader.bytes(2), Some(&b"re"[..]));
    assert_eq!((reader.bytes(3), reader.i32(), reader.cstr()), (None, None, None));
    assert_eq!(reader.rest(), b"st");
    assert_eq!((reader.i16(), reader.i16(), reader.u8()), (Some(0x7374), None, None));
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ErrorFields::parse(&body);
        let _ = Authentication::parse(&body);
        let _ = read_parameter_status(&body);
        let _ = read_backend_key_data(&body);
    }
}
