//! A separate database for each story.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use patron_blocks::{
    config::Login,
    store::{self, Db, PoolSettings},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::{
    engines::{login, optional_variable},
    world::WAIT_TIMEOUT,
};

/// Creates a database for `work` and drops the database afterwards, also after a panic.
pub(crate) async fn with_database<T>(work: impl AsyncFnOnce(Login) -> T) -> T {
    let login = login();
    let database = format!("story_{}", Uuid::new_v4().simple());
    let tablespace =
        optional_variable("STORY_TABLESPACE").map(|name| format!(" tablespace {name}"));
    let tablespace = tablespace.unwrap_or_default();
    execute_as_admin(&login, format!("create database {database}{tablespace}")).await;
    let own = Login { database: database.clone(), ..login.clone() };
    let outcome = AssertUnwindSafe(work(own)).catch_unwind().await;
    execute_as_admin(&login, format!("drop database if exists {database} with (force)")).await;
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn execute_as_admin(login: &Login, sql: String) {
    let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .host(&login.host)
        .port(login.port)
        .username(&login.username)
        .password(&login.password)
        .database(&login.database);
    let mut connection = PgConnection::connect_with(&options).await.expect("PostgreSQL responds");
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .expect("the role may run the statement");
}

/// Returns a pool of four connections that wait as long as a story does.
pub(crate) fn pool(login: &Login) -> Db {
    store::pool(
        login,
        PoolSettings {
            name: "story",
            max_connections: 4,
            acquire_timeout: WAIT_TIMEOUT,
            statement_timeout: WAIT_TIMEOUT,
            verify_on_release: false,
        },
    )
}
