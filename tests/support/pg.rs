//! A real PostgreSQL on a free loopback port and a unix socket in a folder of its own.

use super::process;
use super::wire::{Client, Connect};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// The ordinary role of the tests; it owns their databases.
pub const USER: &str = "app";
/// Its password.
pub const PASSWORD: &str = "app-password";
/// The administrator's role and password.
pub const ADMIN: &str = "postgres";
const ADMIN_PASSWORD: &str = "admin-password";

/// How a server is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lines added to postgresql.conf.
    pub conf: Vec<String>,
    /// Lines put before the usual ones of pg_hba.conf (local trust, host scram-sha-256).
    pub hba: Vec<String>,
    /// Certificate and key files: sets `ssl = on`.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// `max_connections`; 3 of them are for superusers.
    pub max_connections: u32,
    /// Which PostgreSQL.
    pub release: Release,
    /// Where it runs, if not on this machine's loopback address.
    pub place: Option<Place>,
}

/// Another network in which a server runs. Its unix socket is on this machine all the same.
#[derive(Debug, Clone)]
pub struct Place {
    /// What it listens on there.
    pub address: String,
    /// A command that becomes another one, in that network.
    pub enter: Vec<String>,
}

/// Which PostgreSQL a test runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Release {
    /// The newest of the system.
    #[default]
    System,
    /// 13, the oldest supported, from `tests/support/postgres13.sh`.
    Thirteen,
    /// 18 from `tests/support/postgres18.sh`.
    Eighteen,
}

impl Release {
    /// The folder with its programs.
    fn bin(self) -> PathBuf {
        match self {
            Self::System => bin(),
            Self::Thirteen => fetched("postgres13.sh"),
            Self::Eighteen => bin_18(),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { conf: vec![], hba: vec![], tls: None, max_connections: 200, release: Release::System, place: None }
    }
}

/// A running server; dropped, it is stopped and its data removed.
pub struct Postgres {
    /// Its TCP port on 127.0.0.1.
    pub port: u16,
    dir: tempfile::TempDir,
    bin: PathBuf,
    enter: Vec<String>,
    child: Mutex<Child>,
}

impl Postgres {
    /// Starts one for this test alone: to be killed, stopped, filled or configured.
    pub fn start(options: &Options) -> Self {
        let bin = options.release.bin();
        let dir = tempfile::Builder::new().prefix("pk-pg-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = dir.path().join("data");
        run(Command::new("cp").arg("-a").arg(template(&bin)).arg(&data));
        let sockets = dir.path().join("s");
        fs::create_dir(&sockets).unwrap();
        let port = process::free_port();
        fs::write(data.join("postgresql.auto.conf"), conf(options, port, &sockets)).unwrap();
        let hba = options.hba.join("\n");
        fs::write(data.join("pg_hba.conf"), format!("{hba}\nlocal all all trust\nhost all all all scram-sha-256\n"))
            .unwrap();
        for path in [dir.path().to_owned(), sockets, data.join("postgresql.auto.conf"), data.join("pg_hba.conf")] {
            own(&path);
        }
        let enter = options.place.clone().map(|place| place.enter).unwrap_or_default();
        let child = Mutex::new(launch(&bin, dir.path(), &enter));
        let server = Self { port, dir, bin, enter, child };
        server.wait();
        let mut admin = server.admin("postgres");
        admin.query(&format!("ALTER ROLE {ADMIN} PASSWORD '{ADMIN_PASSWORD}'")).unwrap();
        admin.query(&format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")).unwrap();
        server
    }

    /// One that the tests of this process share, each with a database of its own. It ends with the
    /// last test that holds it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        share(&SHARED, Release::System)
    }

    /// The same with PostgreSQL 18 (protocol 3.2).
    pub fn shared_18() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        share(&SHARED, Release::Eighteen)
    }

    /// The same with PostgreSQL 13, the oldest supported.
    pub fn shared_13() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        share(&SHARED, Release::Thirteen)
    }

    /// Creates a database that belongs to [`USER`] and returns its name.
    pub fn create_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.admin("postgres").query(&format!("CREATE DATABASE {name} OWNER {USER}")).unwrap();
        name
    }

    /// A superuser's session over the unix socket, past any pooler.
    pub fn admin(&self, database: &str) -> Client {
        Connect::unix(&self.socket()).user(ADMIN).database(database).open().unwrap()
    }

    /// How to reach it over TCP as [`USER`].
    pub fn connect(&self, database: &str) -> Connect {
        Connect::tcp(self.port).user(USER).password(PASSWORD).database(database)
    }

    /// The unix socket itself.
    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join(format!(".s.PGSQL.{}", self.port))
    }

    /// The folder that holds it, as libpq's `host`.
    pub fn socket_dir(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Process ids of the backends that serve clients of one database.
    pub fn backends(&self, database: &str) -> Vec<u32> {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND backend_type = 'client backend' \
             AND pid <> pg_backend_pid() ORDER BY backend_start, pid"
        );
        self.admin("postgres").rows(&sql).iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect()
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Sends a signal to the postmaster and all its processes: STOP hangs the server, CONT wakes it.
    pub fn signal_all(&self, signal: &str) {
        let pid = self.pid();
        process::signal(pid, signal);
        for child in process::children(pid) {
            process::signal(child, signal);
        }
    }

    /// Ends the server at once, as a crash of its machine does: no process says goodbye.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        // Backends that see the postmaster gone would still say 57P01: they go first, while it is stopped.
        process::signal(child.id(), "STOP");
        for pid in process::children(child.id()) {
            process::signal(pid, "KILL");
        }
        process::signal(child.id(), "KILL");
        let _ = child.wait();
    }

    /// Stops it as an administrator does (`fast`: sessions are told 57P01).
    pub fn stop(&self) {
        let mut child = self.child.lock().unwrap();
        process::signal(child.id(), "INT");
        let _ = child.wait();
    }

    /// Starts it again on the same port with the same data after [`Self::kill`] or [`Self::stop`].
    pub fn start_again(&self) {
        let _ = fs::remove_file(self.dir.path().join("data/postmaster.pid"));
        *self.child.lock().unwrap() = launch(&self.bin, self.dir.path(), &self.enter);
        self.wait();
    }

    /// Makes a server that is stopped a standby of nobody: in recovery, and open for reading.
    pub fn become_standby(&self) {
        let path = self.dir.path().join("data/standby.signal");
        fs::write(&path, "").unwrap();
        own(&path);
    }

    /// Adds lines to postgresql.conf and has the server read it again.
    pub fn configure(&self, lines: &[&str]) {
        let path = self.dir.path().join("data/postgresql.auto.conf");
        let text = fs::read_to_string(&path).unwrap() + "\n" + &lines.join("\n") + "\n";
        fs::write(&path, text).unwrap();
        process::signal(self.pid(), "HUP");
    }

    /// Replaces pg_hba.conf and has the server read it again.
    pub fn set_hba(&self, text: &str) {
        fs::write(self.dir.path().join("data/pg_hba.conf"), text).unwrap();
        process::signal(self.pid(), "HUP");
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if Connect::unix(&self.socket()).user(ADMIN).database("postgres").open().is_ok() {
                return;
            }
            assert!(Instant::now() < end, "PostgreSQL did not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal_all("CONT");
        self.kill();
    }
}

fn share(slot: &Mutex<Weak<Postgres>>, release: Release) -> Arc<Postgres> {
    let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(server) = slot.upgrade() {
        return server;
    }
    let server = Arc::new(Postgres::start(&Options { release, ..Options::default() }));
    *slot = Arc::downgrade(&server);
    server
}

fn conf(options: &Options, port: u16, sockets: &Path) -> String {
    let address = options.place.as_ref().map_or("127.0.0.1", |place| &place.address);
    let mut conf = format!(
        "listen_addresses = '{address}'\nport = {port}\nunix_socket_directories = '{}'\n\
         max_connections = {}\nsuperuser_reserved_connections = 3\nfsync = off\nsynchronous_commit = off\n\
         full_page_writes = off\nautovacuum = off\nshared_buffers = 16MB\njit = off\nlog_min_messages = warning\n\
         log_line_prefix = '%m [%p] '\npassword_encryption = 'scram-sha-256'\n",
        sockets.display(),
        options.max_connections,
    );
    if let Some((cert, key)) = &options.tls {
        let (cert, key) = (cert.display(), key.display());
        conf += &format!("ssl = on\nssl_cert_file = '{cert}'\nssl_key_file = '{key}'\n");
    }
    conf + &options.conf.join("\n") + "\n"
}

fn launch(bin: &Path, dir: &Path, enter: &[String]) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = process::within(enter, process::command(&bin.join("postgres"), user(), "QUIT"));
    command.arg("-D").arg(dir.join("data")).current_dir(dir).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log);
    process::spawn(command)
}

/// The user that runs PostgreSQL: ourselves, or for root the package's own.
fn user() -> Option<&'static str> {
    process::is_root().then_some("postgres")
}

/// Gives a file to the user that runs PostgreSQL.
pub fn own(path: &Path) {
    if let Some(user) = user() {
        let id = |flag| {
            let out = Command::new("id").args([flag, user]).output().unwrap();
            String::from_utf8(out.stdout).unwrap().trim().parse::<u32>().unwrap()
        };
        chown(path, Some(id("-u")), Some(id("-g"))).unwrap();
    }
}

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Where things are kept between runs. Root's home is closed to the user that runs PostgreSQL.
fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("POOLKEEPER_CACHE") {
        return dir.into();
    }
    if process::is_root() {
        return "/var/cache/poolkeeper".into();
    }
    let home = std::env::var_os("HOME").expect("HOME");
    Path::new(&home).join(".cache/poolkeeper")
}

/// The folder with the newest PostgreSQL's programs: of the PATH, or of Debian's packages.
pub fn bin() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.flatten().map(|dir| dir.path()).collect())
        .unwrap_or_else(|_| Vec::new())
        .into_iter()
        .filter_map(|dir: PathBuf| Some((dir.file_name()?.to_str()?.parse().ok()?, dir.join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    if let Some((_, bin)) = found.pop() {
        return bin;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
        .expect("PostgreSQL is not installed: apt-get install postgresql")
}

/// PostgreSQL 18's programs, which `tests/support/postgres18.sh` has fetched.
pub fn bin_18() -> PathBuf {
    fetched("postgres18.sh")
}

/// The programs that a script of this folder fetches, once.
fn fetched(script: &str) -> PathBuf {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONCE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(script);
    let out = Command::new("bash").arg(&script).arg(cache()).output().unwrap();
    assert!(out.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().into()
}

/// A data folder made once per version: `initdb` costs a second, a copy a tenth of one.
fn template(bin: &Path) -> PathBuf {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONCE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let version = Command::new(bin.join("postgres")).arg("--version").output().unwrap().stdout;
    let version: String =
        String::from_utf8(version).unwrap().chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    let cache = cache();
    let done = cache.join(format!("template-1-{version}"));
    if done.exists() {
        return done;
    }
    fs::create_dir_all(&cache).unwrap();
    let temporary = tempfile::Builder::new().prefix("making-").tempdir_in(&cache).unwrap();
    own(temporary.path());
    let data = temporary.path().join("data");
    let mut initdb = process::command(&bin.join("initdb"), user(), "KILL");
    initdb.args(["--no-sync", "-U", ADMIN, "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=1", "-D"]);
    run(initdb.arg(&data).current_dir("/"));
    // Another process may have been faster; its template is as good.
    if fs::rename(&data, &done).is_err() {
        assert!(done.exists());
    }
    done
}
