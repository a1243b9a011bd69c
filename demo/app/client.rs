//! One client: logs in, works, checks, and now and then leaves and comes again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Column, Connection, Row, TypeInfo, ValueRef};

use super::Options;
use super::counts::Counts;

/// What went wrong, in the words of the server or of whoever noticed.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How to log in.
#[derive(Clone)]
pub struct Database {
    credentials: Option<PathBuf>,
}

impl Database {
    /// By the environment, user and password by the files of this folder if there is one.
    pub fn new(credentials: Option<PathBuf>) -> Self {
        Self { credentials }
    }

    /// A new connection.
    pub async fn connect(&self) -> Outcome<PgConnection> {
        let mut options = PgConnectOptions::new();
        if let Some(folder) = &self.credentials {
            let read = |key: &str| std::fs::read_to_string(folder.join(key));
            options = options.username(&read("username")?).password(&read("password")?);
        }
        Ok(PgConnection::connect_with(&options).await?)
    }

    /// Runs a statement on a connection of its own: the first column of its first row as text.
    pub async fn ask(&self, sql: &str) -> Outcome<String> {
        let mut connection = self.connect().await?;
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await?;
        connection.close().await?;
        let Some(row) = rows.first() else { return Ok(String::new()) };
        let value = row.try_get_raw(0)?;
        if value.is_null() {
            return Ok(String::new());
        }
        // raw_sql has everything sent as text.
        let text = value.as_str().map_err(|error| format!("{}: {error}", row.column(0).type_info().name()))?;
        Ok(text.to_owned())
    }

    /// Runs a statement in a transaction and leaves without ending it, as a client that dies does.
    pub async fn abandon(&self, sql: &str) -> Outcome<()> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {sql}"))).execute(&mut connection).await?;
        connection.close_hard().await?;
        Ok(())
    }

    /// Writes what was counted into the table `runs`.
    pub async fn write_result(&self, counts: &Counts) -> Outcome<()> {
        let mut connection = self.connect().await?;
        sqlx::query("INSERT INTO runs (name, done, failed, report) VALUES ($1, $2, $3, $4)")
            .bind(counts.name())
            .bind(i64::try_from(counts.successes())?)
            .bind(i64::try_from(counts.failures())?)
            .bind(counts.show().to_string())
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        Ok(())
    }
}

/// Works until it is told to end, or has done what was ordered. What it has committed it remembers beyond a connection.
pub async fn run(number: u32, options: Options, database: Database, counts: Arc<Counts>) {
    let mut work = Work { number, turn: 0, account: format!("{}-{number}", options.name), committed: None, options };
    while !work.over(&counts) {
        if let Err(error) = work.session(&database, &counts).await {
            counts.failed(&format!("client {number}, transaction {}: {error}", work.turn));
            // It counts once: what follows is a new connection.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

struct Work {
    number: u32,
    turn: u64,
    account: String,
    /// What the last transfer left in the ledger; unknown at first, and after an answer to COMMIT that never came.
    committed: Option<i64>,
    options: Options,
}

impl Work {
    fn over(&self, counts: &Counts) -> bool {
        counts.ending() || (self.options.transactions > 0 && self.turn >= self.options.transactions)
    }

    async fn session(&mut self, database: &Database, counts: &Counts) -> Outcome<()> {
        let mut connection = database.connect().await?;
        counts.logged_in();
        let leaves = match self.options.relogin {
            0 => u64::MAX,
            every => self.turn + every,
        };
        while !self.over(counts) && self.turn < leaves {
            let began = Instant::now();
            self.transaction(&mut connection).await?;
            counts.done(began.elapsed());
            self.turn += 1;
            tokio::time::sleep(Duration::from_millis(self.options.pause_ms)).await;
        }
        connection.close().await?;
        Ok(())
    }

    async fn transaction(&mut self, connection: &mut PgConnection) -> Outcome<()> {
        let value = i64::from(self.number) << 32 | i64::try_from(self.turn)?;
        match self.turn % 4 {
            0 => {
                let sql = "SELECT $1::bigint * 2, $2::text, pg_sleep($3::float8 / 1000)::text";
                let hold = f64::from(self.options.hold_ms);
                let query = sqlx::query_as::<_, (i64, String, String)>(sql).bind(value).bind(&self.account).bind(hold);
                let (double, account, _) = query.fetch_one(connection).await?;
                same(&(double, account), &(value * 2, self.account.clone()))
            }
            1 => {
                let rows = sqlx::raw_sql(AssertSqlSafe(format!("SELECT {value}::text AS value"))).fetch_all(connection);
                let texts: Vec<String> = rows.await?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
                same(&texts, &vec![value.to_string()])
            }
            2 => self.transfer(connection).await,
            _ => {
                let most = i64::from(self.number) + i64::try_from(self.turn % 100)?;
                let sql = "SELECT count(*), coalesce(sum(n), 0)::bigint FROM generate_series(1, $1::bigint) AS n";
                let got: (i64, i64) = sqlx::query_as(sql).bind(most).fetch_one(connection).await?;
                same(&got, &(most, most * (most + 1) / 2))
            }
        }
    }

    /// A transaction of several round trips, whose effect the next one checks: a commit that was lost or doubled shows.
    async fn transfer(&mut self, connection: &mut PgConnection) -> Outcome<()> {
        let mut transaction = connection.begin().await?;
        let sql = "SELECT n FROM ledger WHERE account = $1";
        let row: Option<(i64,)> = sqlx::query_as(sql).bind(&self.account).fetch_optional(&mut *transaction).await?;
        let before = row.map_or(0, |(n,)| n);
        if let Some(committed) = self.committed {
            same(&before, &committed)?;
        }
        let sql = "INSERT INTO ledger VALUES ($1, 1) ON CONFLICT (account) DO UPDATE SET n = ledger.n + 1";
        sqlx::query(sql).bind(&self.account).execute(&mut *transaction).await?;
        self.committed = None;
        transaction.commit().await?;
        self.committed = Some(before + 1);
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: &T, wanted: &T) -> Outcome<()> {
    if got == wanted { Ok(()) } else { Err(format!("WRONG: {got:?} instead of {wanted:?}").into()) }
}
