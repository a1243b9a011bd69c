//! Child processes that never outlive the tests: ports, signals, spawning.

use std::net::TcpListener;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};

/// A TCP port of the loopback address that nobody listens on. Below the kernel's ephemeral range, so
/// that no outgoing connection takes it between this call and the bind of whoever asked.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    loop {
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 11_000;
        let port = 21_000 + u16::try_from(n).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Sends `signal` (a name without SIG) to one process. A process that is gone is no error.
pub fn signal(pid: u32, signal: &str) {
    let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {pid} 2>/dev/null")]).status();
}

/// Processes whose parent is `pid`, from /proc.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // "pid (comm) state ppid …"; comm may hold anything, so look behind its last parenthesis.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        if rest.split(' ').nth(1) == Some(&pid.to_string()) {
            found.push(child);
        }
    }
    found
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Whether the tests run as root, who may not run PostgreSQL.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A command under `setpriv`, which ends the process by `death` when the tests end in any way, and
/// runs it as `user` when given.
pub fn command(program: &std::path::Path, user: Option<&str>, death: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", death]);
    if let Some(user) = user {
        command.args([format!("--reuid={user}"), format!("--regid={}", group_of(user)), "--init-groups".to_owned()]);
    }
    command.arg("--").arg(program);
    command
}

/// A command that another one becomes: `enter` in front of it.
pub fn within(enter: &[String], command: Command) -> Command {
    let Some((first, rest)) = enter.split_first() else { return command };
    let mut outer = Command::new(first);
    outer.args(rest).arg(command.get_program()).args(command.get_args());
    outer
}

/// The name of a user's own group.
fn group_of(user: &str) -> String {
    let out = Command::new("id").args(["-gn", user]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Spawns from a thread that lives as long as the tests: the parent-death signal belongs to the
/// *thread* that forked, and a test's own thread ends with the test.
pub fn spawn(command: Command) -> Child {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in todo {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = mpsc::channel();
    let program = format!("{command:?}");
    spawner.lock().unwrap().send((command, answer)).unwrap();
    child.recv().unwrap().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Whether a process has ended; one that only waits to be collected has.
pub fn ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}
