//! Clients under load that believe nothing: every value is checked, every error, reconnect and missing
//! answer is counted.

use super::fe;
use super::wire::{Client, Connect, ServerError};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a load has done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Transactions whose every answer was right.
    pub done: AtomicU64,
    /// Connections opened again after an error that ended one.
    pub reconnects: AtomicU64,
    /// Errors, in the words of the server; wrong answers too.
    pub errors: Mutex<Vec<String>>,
}

/// Running clients.
pub struct Load {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts so many clients; table `load (client int, n bigint)` must exist. Each works through simple,
    /// extended and prepared statements, transactions and pipelines.
    pub fn start(connect: &Connect, clients: u32) -> Self {
        let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let spawn = |number: u32| {
            let (connect, counts, stop) = (connect.clone(), Arc::clone(&counts), Arc::clone(&stop));
            let work = move || run(&connect, number, &counts, &stop);
            std::thread::Builder::new().stack_size(256 * 1024).spawn(work).unwrap()
        };
        let threads = (0..clients).map(spawn).collect();
        Self { counts, stop, threads }
    }

    /// The statement that makes the table.
    pub const TABLE: &'static str = "CREATE TABLE load (client int PRIMARY KEY, n bigint NOT NULL)";

    /// Transactions done so far.
    pub fn done(&self) -> u64 {
        self.counts.done.load(Ordering::Relaxed)
    }

    /// Errors so far.
    pub fn errors(&self) -> Vec<String> {
        self.counts.errors.lock().unwrap().clone()
    }

    /// Waits until so many more transactions are done; a load that stands still fails the test.
    #[track_caller]
    pub fn advance(&self, transactions: u64) {
        let goal = self.done() + transactions;
        super::eventually("the load goes on", || self.done() >= goal);
    }

    /// Stops all clients and returns the number of transactions, reconnects and the errors.
    pub fn stop(self) -> (u64, u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                let text = panic.downcast_ref::<String>().map_or("?", String::as_str);
                self.counts.errors.lock().unwrap().push(format!("a client's panic: {text}"));
            }
        }
        let errors = self.counts.errors.lock().unwrap().clone();
        (self.counts.done.load(Ordering::Relaxed), self.counts.reconnects.load(Ordering::Relaxed), errors)
    }

    /// Stops, and fails the test if anything at all went wrong. Returns the number of transactions.
    #[track_caller]
    pub fn stop_without_errors(self) -> u64 {
        let (done, reconnects, errors) = self.stop();
        assert!(
            errors.is_empty() && reconnects == 0,
            "{reconnects} reconnects, {} errors: {errors:#.400?}",
            errors.len()
        );
        assert!(done > 0, "the load did nothing");
        done
    }
}

fn run(connect: &Connect, number: u32, counts: &Counts, stop: &AtomicBool) {
    let fail = |what: String| counts.errors.lock().unwrap().push(format!("client {number}: {what}"));
    let mut committed = None;
    let mut first = true;
    while !stop.load(Ordering::Relaxed) {
        if !first {
            counts.reconnects.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
        first = false;
        match connect.open() {
            Ok(mut client) => {
                if let Err(error) = session(&mut client, number, counts, stop, &mut committed) {
                    fail(error);
                }
            }
            Err(error) => fail(format!("login: {error:?}")),
        }
    }
}

fn session(
    client: &mut Client,
    number: u32,
    counts: &Counts,
    stop: &AtomicBool,
    committed: &mut Option<u64>,
) -> Result<(), String> {
    let text = |error: ServerError| format!("{error:?}");
    let sql = "SELECT $1::bigint * 2, $2::text";
    ask(client, &fe::all(&[fe::parse("twice", sql, &[]), fe::sync()]), &[])?;
    for turn in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let value = u64::from(number) << 32 | turn;
        let (value_text, double) = (value.to_string(), (value * 2).to_string());
        match turn % 5 {
            0 => {
                let rows = client.query(&format!("SELECT {value}, 'c{number}'")).map_err(text)?;
                same(&rows, &[&[&value_text, &format!("c{number}")]])?;
            }
            1 => ask(client, &fe::extended("SELECT $1::bigint", &[&value_text]), &[&value_text])?,
            2 => ask(client, &fe::run("twice", &[&value_text, "x"]), &[&format!("{double}|x")])?,
            3 => {
                let two = [fe::bind("", "twice", &[&value_text, "a"]), fe::execute("")].concat();
                let more = [fe::bind("", "twice", &["4", "b"]), fe::execute(""), fe::sync()].concat();
                ask(client, &[two, more].concat(), &[&format!("{double}|a"), "8|b"])?;
            }
            _ => transfer(client, number, committed)?,
        }
        counts.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A transaction of several round trips whose effect the next one checks: a lost or doubled commit shows.
fn transfer(client: &mut Client, number: u32, committed: &mut Option<u64>) -> Result<(), String> {
    let text = |error: ServerError| format!("{error:?}");
    client.query("BEGIN").map_err(text)?;
    let rows = client.query(&format!("SELECT n FROM load WHERE client = {number}")).map_err(text)?;
    let before = rows.first().and_then(|row| row[0].as_ref()).map(|n| n.parse::<u64>().unwrap());
    if *committed != before && committed.is_some() {
        return Err(format!("WRONG: committed {committed:?}, found {before:?}"));
    }
    let next = before.unwrap_or(0) + 1;
    let sql = format!("INSERT INTO load VALUES ({number}, 1) ON CONFLICT (client) DO UPDATE SET n = load.n + 1");
    client.query(&sql).map_err(text)?;
    // Unknown until the answer is there: a connection that is cut at COMMIT may have committed.
    *committed = None;
    client.query("COMMIT").map_err(text)?;
    *committed = Some(next);
    Ok(())
}

/// Sends messages and reads up to ReadyForQuery: the rows must be these, their columns joined by `|`.
fn ask(client: &mut Client, messages: &[u8], rows: &[&str]) -> Result<(), String> {
    client.write(messages).map_err(|error| error.to_string())?;
    let mut got = vec![];
    loop {
        match client.poll_message(client.timeout()) {
            Ok(Some(message)) => match message.tag {
                b'D' => got.push(message.gist()),
                b'E' => return Err(format!("{message:?}")),
                b'Z' => break,
                _ => {}
            },
            Ok(None) => return Err("the connection was closed".into()),
            Err(time) => return Err(format!("MISSING: no answer within {time:?}")),
        }
    }
    if got == rows { Ok(()) } else { Err(format!("WRONG: {got:?} instead of {rows:?}")) }
}

fn same(rows: &[Vec<Option<String>>], want: &[&[&str]]) -> Result<(), String> {
    let fits = rows.len() == want.len()
        && rows.iter().zip(want).all(|(row, want)| row.iter().map(|v| v.as_deref()).eq(want.iter().map(|v| Some(*v))));
    if fits { Ok(()) } else { Err(format!("WRONG: {rows:?} instead of {want:?}")) }
}
