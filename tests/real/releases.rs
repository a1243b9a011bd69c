//! A session's state on the oldest and the newest PostgreSQL and the one between, as a primary and as a hot standby, for a role
//! that owns nothing and was granted nothing.

use crate::support::pg::{self, ADMIN};
use crate::support::wire::Client;
use crate::support::{Options, Policy, Postgres, Release, Sidecar, bed, eventually};

const RELEASES: [(u32, Release); 3] = [(13, Release::Thirteen), (15, Release::System), (18, Release::Eighteen)];

/// Servers of a pool of two, each in turn: a client that asks gets the one that nobody holds.
struct Turns([Client; 2]);

impl Turns {
    fn new(sidecar: &Sidecar) -> Self {
        let mut holders = [sidecar.client(), sidecar.client()];
        holders.iter_mut().for_each(|holder| drop(holder.rows("BEGIN")));
        Self(holders)
    }

    fn each(&mut self, mut check: impl FnMut()) {
        for holder in &mut self.0 {
            holder.rows("COMMIT");
            check();
            holder.rows("BEGIN");
        }
    }

    fn end(&mut self) {
        self.0.iter_mut().for_each(|holder| drop(holder.rows("COMMIT")));
    }
}

/// A database in which the client's role has what everybody has, and no more.
fn database(server: &Postgres) -> String {
    let name = server.create_database();
    server.admin(&name).rows(&format!(
        "ALTER DATABASE {name} OWNER TO {ADMIN}; REVOKE ALL ON SCHEMA public FROM public; \
         CREATE TABLE visible (a int); GRANT USAGE ON SCHEMA public TO public; GRANT SELECT ON visible TO public"
    ));
    let owned = format!("SELECT count(*) FROM pg_shdepend WHERE refobjid = '{}'::regrole", pg::USER);
    assert_eq!(server.admin(&name).value(&owned), "0", "it owns nothing and was granted nothing");
    name
}

fn keeps_sessions_apart(server: &Postgres, name: &str, standby: bool) {
    let sidecar = Sidecar::start(&Policy::new(server.port, name).set("pool.size", 2).set("pool.maxOverflow", 0));
    let (mut one, mut two, mut third) = (sidecar.client(), sidecar.client(), sidecar.client());
    eventually("the catalog was read", || {
        third.rows("SELECT count(*) FROM visible");
        sidecar.metric("poolkeeper_catalog_quiet") == 1.0
    });
    let mut turns = Turns::new(&sidecar);
    turns.0[0].rows("COMMIT");
    one.rows("SET work_mem = '7MB'; SET app.tenant = 'one'");
    two.rows("SET work_mem = '9MB'; SET DateStyle = 'German'");
    turns.0[0].rows("BEGIN");
    turns.each(|| {
        let asked = "SELECT concat_ws('|', current_setting('work_mem'), current_setting('DateStyle'), nullif(current_setting('app.tenant', true), ''))";
        assert_eq!(one.value(asked), "7MB|ISO, MDY|one");
        assert_eq!(two.value(asked), "9MB|German, DMY");
        assert_eq!(third.value(asked), "4MB|ISO, MDY");
    });
    turns.end();
    assert_eq!(one.value("SELECT pg_advisory_lock(7)"), "");
    assert_eq!(two.value("SELECT pg_try_advisory_lock(7)"), "f", "another client's");
    assert_eq!(one.value("SELECT pg_advisory_unlock(7)"), "t");
    one.rows("PREPARE mine AS SELECT 1");
    assert_eq!(two.query("EXECUTE mine").unwrap_err().code, "26000");
    assert_eq!(one.value("EXECUTE mine"), "1");
    one.rows("DEALLOCATE mine");
    one.rows("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 42; COMMIT");
    assert_eq!(two.query("FETCH c").unwrap_err().code, "34000");
    assert_eq!(one.value("FETCH c"), "42");
    one.rows("CLOSE c");
    if !standby {
        one.rows("CREATE TEMP TABLE own AS SELECT 5 AS a");
        assert_eq!(two.query("SELECT a FROM own").unwrap_err().code, "42P01");
        assert_eq!(one.value("SELECT a FROM own"), "5");
        one.rows("DROP TABLE own");
        one.rows("LISTEN ch");
        two.rows("NOTIFY ch, 'heard'");
        let heard = one.expect("A");
        assert!(heard[0].body.windows(5).any(|part| part == b"heard"));
        one.rows("UNLISTEN ch");
    }
    eventually("nothing binds any more", || sidecar.status()["pools"][0]["pinned"]["clients"] == 0);
    assert!(sidecar.metric("poolkeeper_session_audits_total{kind=\"targeted\"}") > 0.0);
    assert!(sidecar.metric("poolkeeper_session_adaptations_total") > 0.0);
    assert_eq!(sidecar.metric("poolkeeper_server_connections_closed_total{reason=\"protocol\"}"), 0.0);
}

#[test]
fn a_role_without_rights_on_each_release() {
    for (_, release) in RELEASES.into_iter().filter(|_| !bed::is_direct()) {
        let server = Postgres::start(&Options { release, ..Options::default() });
        keeps_sessions_apart(&server, &database(&server), false);
    }
}

#[test]
fn and_on_its_hot_standby() {
    for (version, release) in RELEASES.into_iter().filter(|_| !bed::is_direct()) {
        let server = Postgres::start(&Options { release, ..Options::default() });
        let name = database(&server);
        server.stop();
        server.become_standby();
        server.start_again();
        assert_eq!(server.admin(&name).value("SELECT pg_is_in_recovery()"), "t", "{version}");
        keeps_sessions_apart(&server, &name, true);
    }
}
