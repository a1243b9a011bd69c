//! A connection or a pool for the database of `DATABASE_URL`: what sqlx's tests ask for.

use std::env;

use sqlx::pool::PoolOptions;
use sqlx::{Connection, Database, Pool};

/// The environment holds everything already.
pub fn setup_if_needed() {}

/// Logs in.
pub async fn new<DB: Database>() -> anyhow::Result<DB::Connection> {
    Ok(DB::Connection::connect(&env::var("DATABASE_URL")?).await?)
}

/// A pool as small as the tests expect, which tests a connection whenever it lends it.
pub async fn pool<DB: Database>() -> anyhow::Result<Pool<DB>> {
    let options = PoolOptions::<DB>::new().min_connections(0).max_connections(5).test_before_acquire(true);
    Ok(options.connect(&env::var("DATABASE_URL")?).await?)
}
