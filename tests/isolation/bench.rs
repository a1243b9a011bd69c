//! What a scenario's clients share: a database, a sidecar, an administrator, what is known beforehand.

use crate::judge::Judge;
use crate::model::Startup;
use crate::scenarios::Scenario;
use crate::support::{Client, Connect, Launch, Options, Policy, Postgres, Release, Sidecar, bed, pg};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};

/// Seeds that each client may give to setseed().
pub const SEEDS: usize = 4;
/// Numbers known of each series.
pub const DRAWS: usize = 6;

/// What a scenario's clients share.
pub struct World {
    /// How clients connect.
    pub connect: Connect,
    /// Past the sidecar, as a superuser.
    pub admin: Mutex<Client>,
    /// The verdicts.
    pub judge: Judge,
    /// The scenario.
    pub scenario: Scenario,
    /// The seed of everything.
    pub seed: u64,
    /// What random() gives after each setseed().
    pub series: Vec<Vec<i64>>,
    /// Whose series a number belongs to.
    pub drawn: HashMap<i64, usize>,
    /// OIDs of set_config() and, in a noisy database, brand().
    pub functions: BTreeMap<&'static str, u32>,
    /// What clients start with.
    pub startups: Vec<Startup>,
    /// The server's own settings.
    pub defaults: BTreeMap<String, String>,
    /// How the server reaches itself, for dblink.
    pub loopback: String,
    // Dropped in this order.
    sidecar: Option<Sidecar>,
    _pg: Arc<Postgres>,
}

/// The role of a client that it may SET.
pub fn role(number: usize) -> String {
    format!("role_{number:03}")
}

/// The argument of setseed() for one of a client's series.
pub fn seed_argument(series: usize) -> String {
    format!("{:.4}", (series + 1) as f64 / 2000.0)
}

/// The one of this release that all scenarios share.
fn server(release: Release) -> Arc<Postgres> {
    static SHARED: [Mutex<Weak<Postgres>>; 3] = [const { Mutex::new(Weak::new()) }; 3];
    let mut shared = SHARED[release as usize].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let conf = ["autovacuum = on", "autovacuum_naptime = 10s", "log_min_messages = fatal"].map(str::to_owned).to_vec();
    let server = Arc::new(Postgres::start(&Options { conf, max_connections: 400, release, ..Options::default() }));
    let mut admin = server.admin("postgres");
    admin.rows(&format!("CREATE ROLE {SUPER} SUPERUSER LOGIN PASSWORD '{}'", pg::PASSWORD));
    for number in 0..200 {
        let role = role(number);
        admin.rows(&format!("CREATE ROLE {role}; GRANT {role} TO {}", pg::USER));
    }
    *shared = Arc::downgrade(&server);
    server
}

/// The release to run on: the scenario's, or another for all of them.
fn release(scenario: &Scenario) -> Release {
    match std::env::var("ISOLATION_POSTGRES").as_deref() {
        Err(_) => scenario.release,
        Ok("13") => Release::Thirteen,
        Ok("18") => Release::Eighteen,
        Ok(other) => panic!("ISOLATION_POSTGRES must be 13 or 18; not {other}"),
    }
}

/// The role that may SET SESSION AUTHORIZATION.
const SUPER: &str = "boss";

impl World {
    /// Sets everything up.
    pub fn new(scenario: Scenario, seed: u64, judge: Judge) -> Self {
        let release = release(&scenario);
        let pg = server(release);
        let database = pg.create_database();
        let mut admin = pg.admin(&database);
        admin.rows(include_str!("quiet.sql"));
        if scenario.noisy {
            let atomic = "BEGIN ATOMIC SELECT set_config('app.tag', v, false); END";
            let text = "AS $$SELECT set_config('app.tag', v, false)$$";
            let noisy = include_str!("noisy.sql");
            assert!(noisy.contains(atomic));
            // Bodies that are no texts came with 14.
            admin.rows(&if release == Release::Thirteen { noisy.replace(atomic, text) } else { noisy.into() });
            if scenario.without.contains(&"hidden seed") {
                admin.rows("DROP FUNCTION sow");
            }
        }
        let user = if scenario.superuser { SUPER } else { pg::USER };
        extensions(&mut admin, &scenario, &pg, &database, user);
        let policy = Policy::new(pg.port, &database)
            .set("pool.size", scenario.servers)
            .set("pool.maxOverflow", 0)
            .set("timeouts.acquire", scenario.acquire)
            .set("listen.maxWaiting", scenario.waiting);
        let policy = (scenario.policy)(policy);
        let sidecar = (!bed::is_direct()).then(|| Launch::new(&policy).credentials(user, pg::PASSWORD).start());
        let connect = match &sidecar {
            Some(sidecar) => sidecar.connect().user(user),
            None => pg.connect(&database).user(user),
        };
        let (series, drawn) = series(&mut admin, scenario.clients);
        let mut direct = pg.connect(&database).user(user).open().unwrap();
        let mut functions = BTreeMap::new();
        let oid =
            |direct: &mut Client, name: &str| direct.value(&format!("SELECT '{name}'::regprocedure::oid")).parse();
        functions.insert("set_config", oid(&mut direct, "set_config(text,text,boolean)").unwrap());
        if scenario.noisy {
            functions.insert("brand", oid(&mut direct, "brand(text)").unwrap());
        }
        let defaults = direct.rows("SELECT name, setting FROM pg_show_all_settings()");
        let defaults = defaults.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap_or_default()));
        let defaults = defaults.collect();
        let loopback =
            format!("host=127.0.0.1 port={} dbname={database} user={user} password={}", pg.port, pg::PASSWORD);
        let startups = startups();
        let admin = Mutex::new(admin);
        Self {
            connect,
            admin,
            judge,
            scenario,
            seed,
            series,
            drawn,
            functions,
            startups,
            defaults,
            loopback,
            sidecar,
            _pg: pg,
        }
    }

    /// A setting's value where nobody has set anything.
    pub fn default(&self, name: &str) -> &str {
        self.defaults.get(name).map_or("", String::as_str)
    }

    /// The sidecar.
    pub fn sidecar(&self) -> Option<&Sidecar> {
        self.sidecar.as_ref()
    }
}

/// dblink and postgres_fdw: with a foreign server for each client.
fn extensions(admin: &mut Client, scenario: &Scenario, pg: &Postgres, database: &str, user: &str) {
    if !scenario.foreign {
        return;
    }
    admin.rows("CREATE EXTENSION dblink; CREATE EXTENSION postgres_fdw; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO PUBLIC");
    if release(scenario) == Release::Thirteen {
        // It can't tell: as if there were none.
        admin.rows(
            "CREATE FUNCTION public.postgres_fdw_get_connections() RETURNS TABLE (server_name text) \
             LANGUAGE sql AS 'SELECT NULL::text WHERE false'",
        );
    }
    for number in 0..scenario.clients {
        admin.rows(&format!(
            "CREATE SERVER far_{number:03} FOREIGN DATA WRAPPER postgres_fdw \
             OPTIONS (host '127.0.0.1', port '{}', dbname '{database}'); \
             CREATE USER MAPPING FOR {user} SERVER far_{number:03} OPTIONS (user '{user}', password '{}'); \
             CREATE FOREIGN TABLE far_{number:03} (name text) SERVER far_{number:03} OPTIONS (schema_name 'one', table_name 'place'); \
             GRANT ALL ON far_{number:03} TO PUBLIC",
            pg.port,
            pg::PASSWORD
        ));
    }
}

/// What random() gives after each client's setseed(), times 10^15.
fn series(admin: &mut Client, clients: usize) -> (Vec<Vec<i64>>, HashMap<i64, usize>) {
    let mut drawn = HashMap::new();
    let series = (0..clients * SEEDS).map(|series| {
        admin.rows(&format!("SELECT setseed({})", seed_argument(series)));
        let rows = admin.rows(&format!("SELECT (random() * 1e15)::bigint FROM generate_series(1, {DRAWS})"));
        let values: Vec<i64> = rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
        drawn.extend(values.iter().map(|value| (*value, series / SEEDS)));
        values
    });
    (series.collect(), drawn)
}

/// Nothing, other formats, and settings by `options`.
fn startups() -> Vec<Startup> {
    let startup = |parameters: &[(&str, &str)], settings: &[(&str, &str)]| {
        let own =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
        Startup { parameters: own(parameters), settings: own(settings).into_iter().collect() }
    };
    let formats = [("TimeZone", "<SECOND>-02:00"), ("DateStyle", "German, DMY")];
    vec![
        startup(&[], &[]),
        startup(&formats, &formats),
        startup(&[("options", "-c work_mem=5001 -c app.boot=two")], &[("work_mem", "5001"), ("app.boot", "two")]),
    ]
}
