//! 6.7 Clients and servers that end, servers that cannot be reached (71, 72, 75).

use crate::support::hostile::{self, Server, Session};
use crate::support::{Bed, Launch, Options, PATIENCE, Policy, Postgres, Sidecar, bed, eventually, fe, pg};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn case_71_clients_are_told_why_they_are_cut() {
    let mut bed = Bed::with(|policy| policy.set("pool.size", 3).set("shutdown.grace", "4s"));
    if bed::is_direct() {
        return;
    }
    let (mut idle, mut busy, mut endless) = (bed.client(), bed.client(), bed.client());
    idle.works();
    busy.rows("BEGIN");
    endless.rows("BEGIN");
    let sidecar = bed.sidecar_mut().unwrap();
    sidecar.signal("TERM");
    let start = Instant::now();
    // New clients are still served for the moment; transactions are finished.
    thread::sleep(Duration::from_millis(200));
    sidecar.client().works();
    idle.expect_end(Some("57P01"));
    assert!(start.elapsed() < Duration::from_secs(4), "an idle client was kept until the grace was over");
    assert_eq!(busy.value("SELECT 'still'"), "still");
    busy.rows("COMMIT");
    busy.expect_end(Some("57P01"));
    endless.expect_end(Some("57P01"));
    let status = sidecar.wait();
    assert!(status.success(), "{status}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    eventually("the servers are closed", || bed.backends().is_empty());
}

#[test]
fn case_71_a_second_signal_ends_at_once() {
    let mut bed = Bed::with(|policy| policy.set("shutdown.grace", "60s"));
    if bed::is_direct() {
        return;
    }
    let mut client = bed.client();
    client.rows("BEGIN");
    let sidecar = bed.sidecar_mut().unwrap();
    sidecar.signal("TERM");
    thread::sleep(Duration::from_millis(300));
    assert!(sidecar.runs());
    let start = Instant::now();
    sidecar.signal("TERM");
    sidecar.wait();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // Told or cut: at once means at once.
    while let Ok(Some(message)) = client.poll_message(PATIENCE) {
        assert_eq!((message.tag, message.field(b'C').as_str()), (b'E', "57P01"));
    }
}

/// Notes the tags that each connection gets.
fn recorder(tags: &Arc<Mutex<Vec<String>>>) -> impl Fn(&mut Session, usize) -> io::Result<()> + Send + Sync + 'static {
    let tags = Arc::clone(tags);
    move |session, number| {
        session.login()?;
        let add = |tag: char| tags.lock().unwrap()[number].push(tag);
        tags.lock().unwrap().resize(number + 1, String::new());
        loop {
            match session.message() {
                Ok((b'X', _)) => add('X'),
                Ok((tag, body)) => {
                    add(char::from(tag));
                    session.send(&[hostile::answer(tag, &body)])?;
                }
                Err(error) => {
                    add(if error.kind() == io::ErrorKind::UnexpectedEof { '.' } else { '!' });
                    return Ok(());
                }
            }
        }
    }
}

#[test]
fn case_72_terminate_is_sent_to_servers_and_not_passed_on() {
    if bed::is_direct() {
        return;
    }
    let tags = Arc::new(Mutex::new(Vec::<String>::new()));
    let server = Server::start(recorder(&tags));
    let policy = Policy::new(server.port, "db")
        .set("pool.size", 1)
        .set("pool.maxOverflow", 0)
        .set("pool.sessionState", "Trusting")
        .set("pool.recycle", "1s")
        .set("health.interval", "60s")
        .set("shutdown.grace", "1s");
    let mut sidecar = Sidecar::start(&policy);
    for _ in 0..3 {
        let mut client = sidecar.client();
        client.send(&[fe::query("SELECT 1"), fe::terminate()]);
        client.expect("T D:1 C Z:I");
        client.expect_end(None);
    }
    assert!(!tags.lock().unwrap()[0].contains('X'), "a client's Terminate was passed on");
    // Recycled: said goodbye to, once, and then closed.
    thread::sleep(Duration::from_millis(1_200));
    sidecar.client().rows("SELECT 1");
    let last = |n: usize| tags.lock().unwrap().get(n).map(|tags| tags.ends_with("X.")).unwrap_or_default();
    eventually("the recycled server is told", || last(0));
    sidecar.signal("TERM");
    assert!(sidecar.wait().success());
    eventually("the last server is told", || last(1));
    for tags in tags.lock().unwrap().iter() {
        assert_eq!(tags.matches('X').count(), 1, "{tags}");
    }
}

#[test]
fn case_75_a_server_that_cannot_be_reached() {
    if bed::is_direct() {
        return;
    }
    let server = Postgres::start(&Options::default());
    let database = server.create_database();
    let sidecar = Sidecar::start(&Policy::new(server.port, &database).set("pool.size", 2));
    sidecar.client().works();
    server.stop();
    // Everybody who waits is told, soon, and more than once.
    for _ in 0..2 {
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let error = match sidecar.connect().open() {
                        Err(error) => error,
                        Ok(mut client) => client.query("SELECT 1").unwrap_err(),
                    };
                    assert!(error.code.starts_with("08") || error.code == "57P03", "{error:?}");
                });
            }
        });
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    server.start_again();
    eventually("service again", || sidecar.connect().open().is_ok_and(|mut client| client.query("SELECT 1").is_ok()));
    sidecar.client().works();
    // Killed under a client: it is told, and the next one is served.
    let mut client = sidecar.client();
    client.rows("BEGIN");
    server.kill();
    let error = client.query("SELECT 1").unwrap_err();
    assert!(error.code.starts_with("08") || error.code == "57P01", "{error:?}");
    server.start_again();
    eventually("service again", || sidecar.connect().open().is_ok_and(|mut client| client.query("SELECT 1").is_ok()));
}

#[test]
fn case_75_the_servers_own_words_reach_the_client() {
    if bed::is_direct() {
        return;
    }
    let first = |sidecar: &Sidecar| {
        let start = Instant::now();
        let error = match sidecar.connect().open() {
            Err(error) => error,
            Ok(mut client) => client.query("SELECT 1").unwrap_err(),
        };
        assert!(start.elapsed() < Duration::from_secs(5), "{:?} for {error:?}", start.elapsed());
        error
    };
    // A full server: 53300, no hang; and room again when there is room.
    let server = Postgres::start(&Options { max_connections: 6, ..Options::default() });
    let database = server.create_database();
    let full: Vec<_> = (0..3).map(|_| server.connect(&database).open().unwrap()).collect();
    let sidecar = Sidecar::start(&Policy::new(server.port, &database).set("pool.size", 2));
    assert_eq!(first(&sidecar).code, "53300");
    drop(full);
    eventually("room", || sidecar.connect().open().is_ok_and(|mut client| client.query("SELECT 1").is_ok()));
    // No such database, no such password.
    let roomy = Postgres::shared();
    let nowhere = Policy::new(roomy.port, "nowhere");
    assert_eq!(first(&Sidecar::start(&nowhere)).code, "3D000");
    let database = roomy.create_database();
    let wrong = Launch::new(&Policy::new(roomy.port, &database)).credentials(pg::USER, "wrong").start();
    assert_eq!(first(&wrong).code, "28P01");
}

/// Failing to connect is retried when somebody asks, not in a storm.
#[test]
fn case_75_no_storm_of_connects() {
    if bed::is_direct() {
        return;
    }
    let refuse = hostile::error(&[(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "57P03"), (b'M', "starting up")]);
    let server = Server::start(move |session, _| {
        session.startup()?;
        session.send(std::slice::from_ref(&refuse))
    });
    let policy =
        Policy::new(server.port, "db").set("pool.minIdle", 2).set("health.interval", "1s").set("health.timeout", "1s");
    let sidecar = Sidecar::start(&policy);
    let error = match sidecar.connect().open() {
        Err(error) => error,
        Ok(mut client) => client.query("SELECT 1").unwrap_err(),
    };
    assert_eq!(error.code, "57P03");
    thread::sleep(Duration::from_secs(2));
    let tries = server.accepted();
    assert!(tries < 60, "{tries} connects in two seconds");
}
