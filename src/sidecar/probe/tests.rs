#![allow(clippy::unwrap_used)]
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::pg::error::SqlState;
use crate::pg::message::{self, Severity};
use crate::pg::startup::{Initial, Startup, initial};
use crate::sidecar::gather::tests::{Fixture, policy_with};

#[test]
fn the_last_reply_is_kept_to_the_millisecond() {
    let health = Health::default();
    assert_eq!(health.last_heard(), None);
    let at = |micros| health.origin + Duration::from_micros(micros);
    health.heard(at(0));
    assert_eq!(health.last_heard(), Some(at(0)));
    health.heard(at(7_900));
    assert_eq!(health.last_heard(), Some(at(7_000)));
    health.heard(at(3_000));
    assert_eq!(health.last_heard(), Some(at(7_000)), "another thread's older reply changes nothing");
}

#[test]
fn the_status_says_what_happened() {
    let health = Health::default();
    let rules = Rules { interval: Duration::from_secs(5), timeout: Duration::from_secs(2), failure_threshold: 1 };
    let now = health.origin + Duration::from_secs(1);
    assert!(!health.status(Readiness::Config, now).required);
    assert_eq!(health.look(&rules, true, now), Step::Ask);
    health.ended(&rules, Outcome::Failed("no route".into()), now);
    let status = health.status(Readiness::Database, now);
    assert_eq!((status.status, status.usable, status.required), (Verdict::Unhealthy, false, true));
    assert_eq!(status.reason.as_deref(), Some("the health query failed once: no route"));
    assert_eq!((status.consecutive_failures, status.looks["failed"]), (1, 1));
    health.heard(now);
    let later = now + Duration::from_secs(6);
    assert_eq!(health.look(&rules, true, later), Step::Ask);
    health.ended(&rules, Outcome::Answered, later);
    let status = health.status(Readiness::Database, later + Duration::from_millis(500));
    assert_eq!((status.status, status.last_success_seconds_ago), (Verdict::Healthy, Some(0.5)));
}

/// What a front door does with the health query.
#[derive(Clone, Copy, PartialEq)]
enum Door {
    Answers,
    IsFull,
    RefusesLogin,
    RefusesQuery,
    IsSilent,
}

/// Plays the pooler's front door; yields what each client said of itself, and its query.
async fn front_door(door: Door) -> (FrontDoor, tokio::sync::mpsc::UnboundedReceiver<(Startup, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let client = serve(door, stream).await;
            let _ = seen.send(client);
        }
    });
    (FrontDoor::Tcp(address), asked)
}

async fn serve(door: Door, mut stream: TcpStream) -> (Startup, String) {
    let mut packet = vec![0; 4096];
    let n = stream.read(&mut packet).await.unwrap();
    let Ok(Some((Initial::Startup(startup), _))) = initial(&packet[..n], 4096) else { panic!("no startup packet") };
    let mut out = Vec::new();
    let refuse = |out: &mut Vec<u8>, severity, code: &SqlState, text: &str| {
        message::error_response(out, severity, code, text, None, None);
    };
    match door {
        Door::IsFull => refuse(&mut out, Severity::Fatal, &SqlState::TOO_MANY_CONNECTIONS, SATURATED),
        Door::RefusesLogin => {
            refuse(&mut out, Severity::Fatal, &SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already");
        }
        _ => {
            message::authentication_ok(&mut out);
            message::ready_for_query(&mut out, b'I');
        }
    }
    stream.write_all(&out).await.unwrap();
    let n = stream.read(&mut packet).await.unwrap_or(0);
    let query = String::from_utf8_lossy(packet.get(5..n).unwrap_or_default()).trim_end_matches('\0').to_owned();
    let mut out = Vec::new();
    match door {
        Door::Answers => message::frame(&mut out, b'C', |body| body.extend(b"SELECT 1\0")),
        Door::RefusesQuery => refuse(&mut out, Severity::Error, &SqlState::FEATURE_NOT_SUPPORTED, "no\nsuch table"),
        Door::IsSilent => tokio::time::sleep(Duration::from_secs(60)).await,
        Door::IsFull | Door::RefusesLogin => return (startup, query),
    }
    message::ready_for_query(&mut out, b'I');
    stream.write_all(&out).await.unwrap();
    // The good-bye.
    let _ = stream.read(&mut packet).await;
    (startup, query)
}

fn fixture() -> Fixture {
    let health = serde_json::json!({ "query": "SELECT 7", "interval": "1s", "timeout": "1s", "failureThreshold": 1 });
    Fixture::new(&[policy_with("orders", health)])
}

async fn ask_once(door: Door) -> Outcome {
    let fixture = fixture();
    let (door, _asked) = front_door(door).await;
    let database = fixture.sight.registry.get("orders").unwrap();
    query::run(&door, &fixture.sight.token, &database.settings()).await
}

#[tokio::test]
async fn what_the_front_door_says_is_understood() {
    assert_eq!(ask_once(Door::Answers).await, Outcome::Answered);
    assert_eq!(ask_once(Door::IsFull).await, Outcome::Full);
    let failed = |text: &str| Outcome::Failed(text.into());
    // The server's own refusal, for the same reason, means that the limit is wrong.
    assert_eq!(ask_once(Door::RefusesLogin).await, failed("sorry, too many clients already (SQLSTATE 53300)"));
    assert_eq!(ask_once(Door::RefusesQuery).await, failed("no\\nsuch table (SQLSTATE 0A000)"));
    assert_eq!(ask_once(Door::IsSilent).await, failed("no answer within 1 s"));
}

#[tokio::test]
async fn the_prober_logs_in_as_the_policys_user_and_carries_the_token() {
    let fixture = fixture();
    let (door, mut asked) = front_door(Door::Answers).await;
    let stop = CancellationToken::new();
    let (registry, token) = (Arc::clone(&fixture.sight.registry), Arc::clone(&fixture.sight.token));
    let prober = tokio::spawn(run(Arc::clone(&registry), door, Arc::clone(&token), stop.clone()));
    let began = Instant::now();
    for _ in 0..2 {
        let (startup, query) = asked.recv().await.unwrap();
        assert_eq!((startup.user.as_str(), startup.database.as_str(), query.as_str()), ("app", "orders", "SELECT 7"));
        let mut names = startup.parameters.iter().filter(|(name, _)| name == "application_name");
        assert!(names.next().is_some_and(|(_, value)| token.matches(value)));
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "the interval lies between two");
    stop.cancel();
    prober.await.unwrap();
    let status = registry.get("orders").unwrap().health.status(Readiness::Config, Instant::now());
    assert_eq!((status.status, status.usable, status.reason), (Verdict::Healthy, true, None));
}

#[tokio::test]
async fn a_client_that_is_answered_spares_the_query() {
    let fixture = fixture();
    let (door, mut asked) = front_door(Door::Answers).await;
    let database = fixture.sight.registry.get("orders").unwrap();
    let prober =
        run(Arc::clone(&fixture.sight.registry), door, Arc::clone(&fixture.sight.token), CancellationToken::new());
    let busy = async {
        for _ in 0..30 {
            database.health.heard(Instant::now());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    database.health.heard(Instant::now());
    tokio::select! {
        () = prober => {}
        () = busy => {}
    }
    assert!(asked.try_recv().is_err(), "nobody asked");
    assert_eq!(database.health.verdict(Instant::now()), (Verdict::Healthy, None));
}
