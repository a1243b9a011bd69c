#![allow(clippy::unwrap_used)]
use std::io::Read;
use std::net::TcpListener;

use super::*;

/// Answers one request with these bytes; the address, and what was asked.
fn answer(bytes: &'static [u8]) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 1024];
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "the request ended early");
            request.extend_from_slice(&piece[..n]);
        }
        stream.write_all(bytes).unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, asked)
}

fn args(http: &str, output: Output) -> Args {
    Args { http: http.into(), watch: false, output, probe: None }
}

const GOOD: &[u8] = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"version\":\"7.0\",\"unknown\":1}";

#[test]
fn asks_once_and_prints() {
    for (output, expected) in [(Output::Table, "Poolkeeper 7.0"), (Output::Json, "\"unknown\": 1")] {
        let (address, asked) = answer(GOOD);
        let mut out = Vec::new();
        watch(&args(&format!("http://{address}/"), output), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains(expected), "{out}");
        assert_eq!(asked.join().unwrap(), format!("GET /status HTTP/1.0\r\nHost: {address}\r\n\r\n"));
    }
}

#[test]
fn nobody_there_is_said_with_the_way_out() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = watch(&args(&address, Output::Table), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("no sidecar answers at {address}: ")), "{error}");
    assert!(error.contains("--http"), "{error}");
    let error = watch(&args("nonsense", Output::Table), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("HOST:PORT"), "{error}");
}

#[test]
fn a_stranger_is_told_from_a_sidecar() {
    for bytes in [&b"SSH-2.0-x\r\n"[..], b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n<html>"] {
        let (address, _asked) = answer(bytes);
        let error = watch(&args(&address, Output::Table), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("is not a Poolkeeper sidecar"), "{error}");
    }
}

#[test]
fn a_probe_is_one_question() {
    let cases = [
        (&b"HTTP/1.1 200 OK\r\n\r\nready\n"[..], Some(true), "ready\n"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nwaiting\x1b\n", Some(false), "waiting\\u{1b}\n"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", None, "\n"),
    ];
    for (bytes, yes, text) in cases {
        let (address, asked) = answer(bytes);
        let mut out = Vec::new();
        let said = ask_once(&args(&address, Output::Table), Probe::Ready, &mut out);
        assert_eq!((said.ok(), String::from_utf8(out).unwrap().as_str()), (yes, text));
        assert!(asked.join().unwrap().starts_with("GET /readyz "));
    }
    let missing = args("/nowhere/http.sock", Output::Table);
    let error = ask_once(&missing, Probe::Live, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("no sidecar answers at /nowhere/http.sock: "), "{error}");
}

#[test]
fn rates_are_differences_over_time() {
    let status = |transactions| {
        let mut pool = crate::sidecar::status::Pool { database: "a".into(), ..Default::default() };
        pool.traffic.transactions = transactions;
        Status { pools: vec![pool], ..Status::default() }
    };
    let mut rates = Rates::default();
    let start = Instant::now();
    assert!(rates.update(&status(100), start).is_empty());
    assert_eq!(rates.update(&status(300), start + Duration::from_secs(2))["a"], 100.0);
    assert_eq!(rates.update(&status(5), start + Duration::from_secs(3))["a"], 0.0, "restarted");
}
