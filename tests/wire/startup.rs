//! 6.6 Startup (57, 60, 64, 66, 67).

use crate::support::{Bed, Connect, Postgres, bed, eventually, fe, pg, process};
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn case_57_protocol_versions_are_negotiated_once() {
    let mut beds = vec![(2, Bed::on(Postgres::shared_18(), |policy| policy))];
    if !bed::is_direct() {
        beds.push((0, Bed::new()));
    }
    for (newest, bed) in &beds {
        let open = |minor: u16, options: &[(&str, &str)]| {
            let connect = bed.connect().minor(minor);
            let mut client =
                options.iter().fold(connect, |connect, (name, value)| connect.param(name, value)).open().unwrap();
            client.works();
            client.negotiated
        };
        let version = |minor: u32| 3 << 16 | minor;
        assert_eq!(open(0, &[]), []);
        // From the first server on the pooler speaks what the servers do.
        let newest = *newest;
        let two = if newest == 2 { vec![] } else { vec![(version(0), vec![])] };
        assert_eq!(open(2, &[]), two);
        assert_eq!(open(9999, &[]), [(version(newest), vec![])]);
        assert_eq!(open(3, &[]), [(version(newest), vec![])]);
        assert_eq!(open(0, &[("_pq_.grease", "1")]), [(version(0), vec!["_pq_.grease".into()])]);
        let both = open(9999, &[("_pq_.a", "1"), ("_pq_.b", "2")]);
        assert_eq!(both, [(version(newest), vec!["_pq_.a".into(), "_pq_.b".into()])]);
        let mut raw = bed.connect().raw().unwrap();
        raw.send(&[fe::untagged(4 << 16, b"user\0app\0\0")]);
        raw.expect_end(Some("0A000"));
        // To protocol 2 PostgreSQL answers in protocol 2's form: any error will do.
        let mut raw = bed.connect().raw().unwrap();
        raw.send(&[fe::untagged(2 << 16, b"user\0app\0\0")]);
        let mut answer = vec![];
        let _ = raw.socket.read_to_end(&mut answer);
        assert!(answer.starts_with(b"E"), "{answer:?}");
    }
}

#[test]
fn case_60_startup_packets_in_pieces_and_absurd_ones() {
    let bed = Bed::with(|policy| policy.set("listen.loginTimeout", "3s"));
    let connect = bed.connect().param("application_name", &"n".repeat(3_000));
    let mut raw = connect.raw().unwrap();
    for byte in connect.startup() {
        raw.write(&[byte]).unwrap();
    }
    crate::support::login::run(&mut raw, &connect).unwrap();
    raw.works();
    // Each ends, with an error or without, and never by logging in.
    let absurd: [&[u8]; 11] = [
        &[0, 0, 0, 0],
        &[0, 0, 0, 3],
        &[0, 0, 0, 4],
        &[0, 0, 0, 7, 0, 3, 0],
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        &[0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        &[0, 0, 0x40, 0, 0, 3, 0, 0],
        &[0, 0, 0, 9, 0, 3, 0, 0, b'x'],
        &[0, 0, 0, 13, 0, 3, 0, 0, b'u', b's', b'e', b'r', 0],
        &[0, 0, 0, 8, 0, 0, 0, 0],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ];
    for bytes in absurd {
        let mut raw = bed.connect().raw().unwrap();
        let _ = raw.write(bytes);
        let mut rest = vec![];
        let _ = raw.socket.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest[0] == b'E', "{bytes:?}: {rest:?}");
    }
    let Some(sidecar) = bed.sidecar() else { return };
    // Many at once that promise a gigabyte and send none of it: bounded memory, bounded time.
    let before = process::resident(sidecar.pid());
    let mut hung: Vec<_> = (0..200).map(|_| bed.connect().raw().unwrap()).collect();
    for raw in &mut hung {
        let _ = raw.write(&[0, 0, 0x20, 0, 0, 3, 0, 0, b'u']);
    }
    bed.client().works();
    let grown = process::resident(sidecar.pid()).saturating_sub(before);
    assert!(grown < 40_000_000, "{grown} bytes for 200 clients that have said nothing");
    let start = Instant::now();
    for raw in &mut hung {
        let mut rest = vec![];
        let _ = raw.socket.read_to_end(&mut rest);
    }
    assert!(start.elapsed() < Duration::from_secs(15), "login has no time limit");
    bed.client().works();
}

/// CVE-2025-12819: functions of the client's search_path in the pooler's own queries.
#[test]
fn case_64_a_clients_search_path_does_not_reach_the_poolers_queries() {
    let bed = Bed::with(|policy| {
        policy.set("pool.size", 1).set("pool.maxOverflow", 0).set("health.interval", "1s").set("health.timeout", "1s")
    });
    bed.setup(
        "CREATE SCHEMA evil; CREATE SEQUENCE evil.calls; \
         CREATE FUNCTION evil.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT nextval(''evil.calls'') > 0'; \
         CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql \
             AS 'SELECT nextval(''evil.calls'')::text'; \
         CREATE FUNCTION evil.pg_advisory_unlock_all() RETURNS void LANGUAGE sql AS 'SELECT nextval(''evil.calls'')'",
    );
    let evil = bed.connect().param("search_path", "evil,pg_catalog");
    let mut client = evil.open().unwrap();
    assert_eq!(client.value("SHOW search_path"), "evil,pg_catalog");
    assert_eq!(client.value("SELECT pg_is_in_recovery()"), "t", "the trap is not set");
    let before = bed.admin().value("SELECT last_value FROM evil.calls");
    // What makes the pooler ask: pings after a pause, a read-only error, a client that leaves state.
    client.query("BEGIN READ ONLY; CREATE TABLE t (a int)").unwrap_err();
    client.rows("ROLLBACK");
    client.rows("SET work_mem = '8MB'");
    drop(client);
    thread::sleep(Duration::from_millis(1_500));
    let mut client = evil.open().unwrap();
    client.works();
    thread::sleep(Duration::from_millis(700));
    client.works();
    // And an ordinary client on the same pool sees the ordinary catalog.
    let mut other = bed.client();
    assert_eq!(other.value("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(bed.admin().value("SELECT last_value FROM evil.calls"), before, "the trap was stepped into");
}

#[test]
fn case_66_startup_parameters() {
    let bed = Bed::sized(1);
    let connect = bed.connect();
    let mut tuned = connect
        .clone()
        .param("extra_float_digits", "3")
        .param("statement_timeout", "7777")
        .param("TimeZone", "Asia/Tokyo")
        .param("application_name", "tuned")
        .param("app.tenant", "seven")
        .param("options", "-c work_mem=9MB -c search_path=\"a\\ b\"")
        .open()
        .unwrap();
    let mut plain = connect.clone().open().unwrap();
    for _ in 0..3 {
        let shown = [
            ("extra_float_digits", "3"),
            ("statement_timeout", "7777ms"),
            ("TimeZone", "Asia/Tokyo"),
            ("application_name", "tuned"),
            ("app.tenant", "seven"),
            ("work_mem", "9MB"),
            ("search_path", "\"a b\""),
        ];
        for (name, value) in shown {
            assert_eq!(tuned.value(&format!("SHOW {name}")), value, "{name}");
        }
        assert_ne!(plain.value("SHOW TimeZone"), "Asia/Tokyo");
        assert_eq!(plain.value("SHOW extra_float_digits"), "1");
        assert_eq!(plain.value("SHOW work_mem"), "4MB");
        assert_eq!(plain.value("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
        tuned.works();
    }
    assert_eq!(tuned.parameter("TimeZone"), Some("Asia/Tokyo"));
    assert_eq!(tuned.parameter("application_name"), Some("tuned"));
    assert_ne!(plain.parameter("TimeZone"), Some("Asia/Tokyo"));
    assert!(plain.parameter("server_version").is_some() && plain.parameter("integer_datetimes") == Some("on"));
    // What the server refuses is refused to this client, in the server's words, and to no other.
    for (name, value, code) in [("no_such_parameter", "1", "42704"), ("TimeZone", "Nowhere/Land", "22023")] {
        let error = connect.clone().param(name, value).open().err().expect("a bad parameter was accepted");
        assert_eq!(error.code, code, "{error:?}");
        connect.clone().open().unwrap().works();
    }
}

#[test]
fn case_67_users_and_databases() {
    let bed = Bed::with(|policy| policy.set("database.alias", pg::USER));
    if bed::is_direct() {
        let admin = bed.admin().query(&format!("CREATE DATABASE {}", pg::USER));
        assert!(admin.is_ok() || admin.unwrap_err().code == "42P04");
    }
    let whole = |parameters: &[(&str, &str)]| {
        let connect = bed.connect();
        let mut raw = connect.raw().unwrap();
        raw.send(&[fe::startup(0, parameters)]);
        crate::support::login::run(&mut raw, &connect).map(|()| raw)
    };
    // The database defaults to the user's name; so does an empty one.
    whole(&[("user", pg::USER)]).unwrap().works();
    whole(&[("user", pg::USER), ("database", "")]).unwrap().works();
    whole(&[("user", pg::USER), ("database", pg::USER)]).unwrap().works();
    for parameters in [&[("database", pg::USER)][..], &[("user", ""), ("database", pg::USER)], &[]] {
        let error = whole(parameters).err().expect("let in without a user");
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28000"), "{error:?}");
    }
    let error = whole(&[("user", pg::USER), ("database", "nowhere")]).err().unwrap();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"), "{error:?}");
    if bed::is_direct() {
        return;
    }
    let error = whole(&[("user", "somebody"), ("database", pg::USER)]).err().unwrap();
    assert_eq!(error.code, "28P01", "{error:?}");
    let socket = Connect::unix(&bed.sidecar().unwrap().socket()).database(pg::USER);
    socket.open().unwrap().works();
    eventually("nobody is left", || bed.sidecar().unwrap().health()["checked_out"] == 0);
}
