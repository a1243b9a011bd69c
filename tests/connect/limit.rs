//! Decision 2: a login that failed is over before the next one begins, so a server with exactly as many slots as we
//! may have never runs out of them.

use poolkeeper::pg::connect::{Credentials, connect};
use poolkeeper::pg::error::SqlState;
use poolkeeper::pg::startup::StartupSet;

use crate::support::{Options, Postgres};
use crate::{app, log_in, run, tcp, who};

#[test]
fn failed_logins_never_take_two_slots() {
    // 2 for us, 3 for superusers.
    // Logins without a password are quick: the next one comes while the last one's backend may still be there.
    let hba = vec!["host all quick all trust".into()];
    let server = Postgres::start(&Options { max_connections: 5, hba, ..Options::default() });
    server.admin("postgres").query("CREATE ROLE quick LOGIN").unwrap();
    run(async {
        let _one = log_in(&tcp(&server), &app()).await.unwrap();
        let wrong = [who("app", "wrong"), who("app", "also wrong")];
        let right: &[Credentials] = &[who("quick", "")];
        let none = StartupSet::default();
        let unknown = StartupSet::new([("no_such_setting", "1")]);
        for round in 0..200 {
            let attempts = [
                (&wrong[..], "postgres", &none, SqlState::INVALID_PASSWORD),
                (right, "nowhere", &none, SqlState::INVALID_CATALOG_NAME),
                // Refused, and tried again at once without our settings.
                (right, "postgres", &unknown, SqlState::UNDEFINED_OBJECT),
            ];
            for (who, database, set, code) in attempts.into_iter().skip(usize::from(round % 20 != 0)) {
                let error = connect(&tcp(&server), who, database, set, &[]).await.unwrap_err();
                assert_eq!(error.sqlstate, Some(code), "{error}");
            }
        }
        let _two = log_in(&tcp(&server), &app()).await.unwrap();
        let full = log_in(&tcp(&server), &app()).await.unwrap_err();
        assert_eq!(full.sqlstate, Some(SqlState::TOO_MANY_CONNECTIONS));
    });
}
