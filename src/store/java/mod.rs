//! The Java switch: takes over, and gives back, the tables of the Java module of the same name in a
//! tenant's schema.
//!
//! The Java module's `user_summary` is a table; this module's `user_summary` is a view. The table is
//! renamed and remains. All other objects of the Java module remain in place and are only read: its jobs,
//! functions, triggers and event tables. The eight event tables contain the times of its writes. Earlier
//! versions had fewer event tables, so each is optional.

pub mod dependent_views;
mod events;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use self::events::{
    AGED_TO_LOST_TIMES, BALANCE_CHANGED_TIMES, CHECKED_IN_TIMES, CHECKED_OUT_TIMES,
    CLAIMED_RETURNED_TIMES, CLOSED_TIMES, DECLARED_LOST_TIMES, DUE_DATE_TIMES, EVENT_TABLES,
    INSERT_CHECK_OUT_TIMES, INSERT_CHECKED_IN_LOANS, INSERT_CLOSED_FEES, INSERT_CLOSED_LOANS,
    uuid_pattern,
};
use super::{Error, Schema, Statement, Tx};
use crate::event::TenantId;

/// The name that both modules use, and the name of the renamed table.
const SUMMARIES: &str = "user_summary";
const RENAMED_SUMMARIES: &str = "java_user_summary";

/// The statements that exchange the names of the table and the view.
const RENAME_SUMMARIES: Statement =
    Statement::new("alter table {schema}.user_summary rename to java_user_summary");
const RENAME_VIEW: Statement =
    Statement::new("alter view {schema}.user_summary rename to user_summary_before");
const RESTORE_SUMMARIES_NAME: Statement =
    Statement::new("alter table {schema}.java_user_summary rename to user_summary");
const LOCK_SUMMARIES: Statement =
    Statement::new("lock table {schema}.user_summary in access exclusive mode");
const CREATE_TIMES: Statement =
    Statement::new("create table {schema}.java_time (id uuid not null, at timestamptz not null)");
const INDEX_TIMES: Statement = Statement::new("create index on {schema}.java_time (id)");
const DROP_TIMES: Statement = Statement::new("drop table {schema}.java_time");
const SELECT_NEWEST_TIME: Statement = Statement::new("select max(at) from {schema}.java_time");
const SELECT_TIMES: Statement = Statement::new(
    "select id, max(at) as at from {schema}.java_time where id = any ($1) group by id",
);
const OPEN_CURSOR: Statement = Statement::new(
    "declare java_summaries no scroll cursor for
     select jsonb::text as json, creation_date at time zone 'UTC' as written_at
       from {schema}.java_user_summary",
);
const FETCH_CURSOR: &str = "fetch 1000 from java_summaries";
const CLOSE_CURSOR: &str = "close java_summaries";

/// Analyzes the filled tables, because dependent views and the API read the tables at once.
const ANALYZE_STATE: Statement =
    Statement::new("analyze {schema}.loan, {schema}.fee_fine, {schema}.patron_counter");
const ANALYZE_TIMES: Statement = Statement::new("analyze {schema}.java_time");

/// Adopts the id of each summary, and raises the version to at least the summary's version.
const ADOPT_SUMMARY_IDS: Statement = Statement::new(concat!(
    "update {schema}.patron_counter c
        set summary_id = case when s.id::text ~ ",
    uuid_pattern!(),
    " then s.id else c.summary_id end,
            version = greatest(c.version, case
              when s.jsonb ->> '_version' ~ '^[0-9]{1,10}$' then (s.jsonb ->> '_version')::int8 end)
       from (select id, jsonb, (jsonb ->> 'userId')::uuid as user_id
               from {schema}.java_user_summary
              where jsonb ->> 'userId' ~* ",
    uuid_pattern!(),
    ") s
      where c.user_id = s.user_id"
));

/// Inserts the current state as summaries of the Java module. The Java module's triggers process each row
/// as usual. The creation date is the newest stamp of the patron's open rows, so a later takeover has the
/// time of the summaries.
const INSERT_SUMMARIES: Statement = Statement::new(
    "insert into {schema}.java_user_summary (id, jsonb, creation_date)
     select s.id, s.jsonb, timestamp 'epoch' + interval '1 millisecond' *
            (('x' || encode(substr(newest_stamp.newest, 1, 8), 'hex'))::bit(64)::int8 # '-9223372036854775808'::int8)
       from {schema}.user_summary s
      cross join lateral (
         select stamp as newest
           from (select greatest(check_out_stamp, snapshot_stamp, due_stamp, lost_stamp, claimed_stamp)
                   from {schema}.loan where user_id = s.user_id and is_open
                 union all
                 select greatest(balance_stamp, type_stamp, user_stamp)
                   from {schema}.fee_fine where user_id = s.user_id and is_open) stamps (stamp)
          order by stamp desc limit 1) newest_stamp",
);
const DELETE_SUMMARIES: Statement = Statement::new("delete from {schema}.java_user_summary");

/// Saves the ingest positions, so that reading resumes there if the tenant is migrated again.
const SAVE_POSITIONS: Statement = Statement::new(
    "insert into mod_patron_blocks.returned_position (
       tenant, topic, partition, next_offset, last_record_at, cluster)
     select $1, topic, partition, next_offset, last_record_at, cluster
       from {schema}.ingest_position
     on conflict (tenant, topic, partition) do update set
       next_offset = excluded.next_offset, last_record_at = excluded.last_record_at,
       cluster = excluded.cluster",
);
const RESTORE_POSITIONS: Statement = Statement::new(
    "with returned as (
       delete from mod_patron_blocks.returned_position where tenant = $1
       returning topic, partition, next_offset, last_record_at, cluster)
     insert into {schema}.ingest_position (topic, partition, next_offset, last_record_at, cluster)
     select topic, partition, next_offset, last_record_at, cluster from returned",
);

/// Drops the objects that the migrations created in a tenant's schema and that the Java module does not
/// know. Shared objects remain; a test compares the schema before and after.
const DROP_TABLES: Statement = Statement::new(
    "drop table if exists {schema}.inbox, {schema}.loan, {schema}.fee_fine, {schema}.patron_counter,
       {schema}.patron, {schema}.patron_horizon, {schema}.tenant_horizon, {schema}.ingest_position,
       {schema}.dead_letter,
       {schema}.housekeeping, {schema}.rebuild_patron,
       {schema}.rebuild_difference, {schema}.pending_patron, {schema}.pending_group,
       {schema}.published_patron, {schema}.block_event_settings, {schema}.message_outbox, {schema}.certainty_policy,
       {schema}.operator_action, {schema}.discarded_dead_letter,
       {schema}._sqlx_migrations",
);
const DROP_SEQUENCE: Statement =
    Statement::new("drop sequence if exists {schema}.message_sequence");
/// Drops the functions together with their triggers on remaining tables.
const DROP_FUNCTIONS: Statement = Statement::new(
    "drop function if exists {schema}.add_pending_patrons(), {schema}.add_pending_patron_of_group(),
       {schema}.add_pending_group_of_limit(), {schema}.add_pending_groups_of_condition(),
       {schema}.enable_block_events(boolean), {schema}.record_inbox_removal(),
       {schema}.newer(bytea, anyelement, bytea, anyelement),
       {schema}.loan_owner(bytea, uuid, bytea, uuid, uuid) cascade",
);
const DROP_VIEWS: Statement =
    Statement::new("drop view {schema}.user_summary_before, {schema}.counted");

/// These statements need the tables of the Java module, and some also need the tables of this module. A
/// test prepares the statements on a schema with both.
pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &BALANCE_CHANGED_TIMES,
    &CHECKED_OUT_TIMES,
    &CHECKED_IN_TIMES,
    &DECLARED_LOST_TIMES,
    &AGED_TO_LOST_TIMES,
    &CLAIMED_RETURNED_TIMES,
    &DUE_DATE_TIMES,
    &CLOSED_TIMES,
    &INSERT_CHECKED_IN_LOANS,
    &INSERT_CLOSED_LOANS,
    &INSERT_CHECK_OUT_TIMES,
    &INSERT_CLOSED_FEES,
    &RENAME_SUMMARIES,
    &RENAME_VIEW,
    &RESTORE_SUMMARIES_NAME,
    &LOCK_SUMMARIES,
    &CREATE_TIMES,
    &INDEX_TIMES,
    &DROP_TIMES,
    &SELECT_NEWEST_TIME,
    &SELECT_TIMES,
    &OPEN_CURSOR,
    &ANALYZE_STATE,
    &ANALYZE_TIMES,
    &ADOPT_SUMMARY_IDS,
    &INSERT_SUMMARIES,
    &DELETE_SUMMARIES,
    &SAVE_POSITIONS,
    &RESTORE_POSITIONS,
    &DROP_TABLES,
    &DROP_SEQUENCE,
    &DROP_FUNCTIONS,
    &DROP_VIEWS,
];

/// Selects the missing rights of the service's role, as clauses of a message.
const SELECT_MISSING_RIGHTS: &str = "
    select format('have the rights USAGE and CREATE on schema %I', $1)
     where not (has_schema_privilege($1, 'USAGE') and has_schema_privilege($1, 'CREATE'))
    union all
    select format('own table %I.%I, or be a member of role %s, the owner', $1, relname, relowner::regrole)
      from pg_class
     where relnamespace = $1::regnamespace and relkind in ('r', 'p')
       and relname in ('user_summary', 'java_user_summary', 'patron_block_conditions', 'patron_block_limits')
       and not pg_has_role(relowner, 'USAGE')
    union all
    select format('have the right SELECT on table %I.%I', $1, relname)
      from pg_class
     where relnamespace = $1::regnamespace and relname = any ($2)
       and not has_table_privilege(oid, 'SELECT')";

const SELECT_TABLES: &str = "select relname::text from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and relkind in ('r', 'p')";

const READ_STEP: &str = "read the Java module's summaries";

/// A row of the Java module's summary table.
#[derive(Debug, FromRow)]
pub struct SummaryRow {
    /// The summary, as JSON text.
    pub json: String,
    /// The time of the write. Only [`restore_summaries`] sets the column, when the tables are given back.
    pub written_at: Option<DateTime<Utc>>,
}

/// The tables of the Java module in a tenant's schema.
#[derive(Debug, Default)]
pub struct JavaTables {
    /// Whether `user_summary` is a table, so that the tenant is not migrated yet.
    pub has_summaries: bool,
    /// Whether the summary table is renamed, so that the tenant is migrated.
    pub is_migrated: bool,
    tables: Vec<String>,
}

/// Finds the tables of the Java module.
pub async fn find_tables(db: impl PgExecutor<'_>, schema: &Schema) -> Result<JavaTables, Error> {
    let tables: Vec<String> = sqlx::query_scalar(SELECT_TABLES)
        .bind(schema.name())
        .fetch_all(db)
        .await
        .map_err(Error::at("find the Java module's tables"))?;
    let has = |name| tables.iter().any(|table| table == name);
    Ok(JavaTables { has_summaries: has(SUMMARIES), is_migrated: has(RENAMED_SUMMARIES), tables })
}

/// Fails with the missing rights of the service's role, if any.
pub async fn require_rights(tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
    let events: Vec<&str> = EVENT_TABLES.iter().map(|(table, ..)| *table).collect();
    let missing: Vec<String> = sqlx::query_scalar(SELECT_MISSING_RIGHTS)
        .bind(schema.name())
        .bind(events)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("check the rights on the Java module's tables"))?;
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingRights(missing.join("; and "))) }
}

impl JavaTables {
    /// Locks the summary table exclusively until the transaction ends.
    pub async fn lock_summaries(&self, tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
        run(tx, schema, &LOCK_SUMMARIES, "lock the Java module's summary table").await
    }

    /// Renames the summary table, so that the view can use the name.
    pub async fn rename_summaries(&self, tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
        run(tx, schema, &RENAME_SUMMARIES, "rename the Java module's summary table").await
    }

    /// Collects the times of the Java module's last writes per patron, and the check-out times of the
    /// open loans. Returns the newest of the times per patron.
    pub async fn collect_times(
        &self,
        tx: &mut Tx,
        schema: &Schema,
    ) -> Result<Option<DateTime<Utc>>, Error> {
        let step = "collect the times of the Java module's writes";
        run(tx, schema, &CREATE_TIMES, step).await?;
        for (table, times, _) in &EVENT_TABLES {
            if self.has(table) {
                run(tx, schema, times, step).await?;
            }
        }
        let newest = sqlx::query_scalar(schema.sql(&SELECT_NEWEST_TIME)).fetch_one(&mut **tx).await;
        if self.has("item_checked_out_event") {
            run(tx, schema, &INSERT_CHECK_OUT_TIMES, step).await?;
        }
        run(tx, schema, &INDEX_TIMES, step).await?;
        run(tx, schema, &ANALYZE_TIMES, step).await?;
        newest.map_err(Error::at(step))
    }

    /// Inserts the loans and fees/fines that the Java module knew as closed since an instant, as far as
    /// no row exists. Adopts the ids of the summaries, and drops the table that
    /// [`JavaTables::collect_times`] created.
    pub async fn finish(
        &self,
        tx: &mut Tx,
        schema: &Schema,
        since: DateTime<Utc>,
    ) -> Result<(), Error> {
        let step = "insert the closed loans and fees/fines of the Java module";
        let existing = EVENT_TABLES.iter().filter(|(table, ..)| self.has(table));
        for ended in existing.filter_map(|(_, _, ended)| *ended) {
            let done = sqlx::query(schema.sql(ended)).bind(since).execute(&mut **tx).await;
            done.map_err(Error::at(step))?;
        }
        run(tx, schema, &ANALYZE_STATE, step).await?;
        run(tx, schema, &ADOPT_SUMMARY_IDS, "adopt the ids of the Java module's summaries").await?;
        run(tx, schema, &DROP_TIMES, step).await?;
        dependent_views::copy_grants(tx, schema, RENAMED_SUMMARIES, SUMMARIES).await
    }

    fn has(&self, table: &str) -> bool {
        self.tables.iter().any(|name| name == table)
    }
}

/// Opens a cursor on the renamed summary table.
pub async fn open_summaries(tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
    run(tx, schema, &OPEN_CURSOR, READ_STEP).await
}

/// Fetches the next rows. After the last row, returns an empty list and closes the cursor.
pub async fn next_summaries(tx: &mut Tx) -> Result<Vec<SummaryRow>, Error> {
    // The statement is not cached, because its columns depend on the cursor of this transaction.
    let rows = sqlx::query_as(FETCH_CURSOR).persistent(false).fetch_all(&mut **tx).await;
    let rows: Vec<SummaryRow> = rows.map_err(Error::at(READ_STEP))?;
    if rows.is_empty() {
        let closed = sqlx::query(CLOSE_CURSOR).persistent(false).execute(&mut **tx).await;
        closed.map_err(Error::at(READ_STEP))?;
    }
    Ok(rows)
}

/// Loads the times of the last writes for these patrons, and the check-out times of these loans.
pub async fn load_times(
    tx: &mut Tx,
    schema: &Schema,
    ids: &[Uuid],
) -> Result<Vec<(Uuid, DateTime<Utc>)>, Error> {
    sqlx::query_as(schema.sql(&SELECT_TIMES))
        .bind(ids)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("read the times of the Java module's writes"))
}

/// Replaces the rows of the renamed table with the current state, and restores the table's name. Returns
/// the number of summaries.
pub async fn restore_summaries(tx: &mut Tx, schema: &Schema) -> Result<u64, Error> {
    let step = "write the Java module's summaries";
    run(tx, schema, &DELETE_SUMMARIES, step).await?;
    let filled = sqlx::query(schema.sql(&INSERT_SUMMARIES)).execute(&mut **tx).await;
    let filled = filled.map_err(Error::at(step))?.rows_affected();
    for rename in [&RENAME_VIEW, &RESTORE_SUMMARIES_NAME] {
        run(tx, schema, rename, "restore the name of the Java module's summary table").await?;
    }
    Ok(filled)
}

/// Restores the ingest positions that were saved when the tenant's tables were given back, if any.
pub async fn restore_positions(
    tx: &mut Tx,
    schema: &Schema,
    tenant: &TenantId,
) -> Result<(), Error> {
    move_positions(tx, schema, tenant, &RESTORE_POSITIONS).await
}

async fn move_positions(
    tx: &mut Tx,
    schema: &Schema,
    tenant: &TenantId,
    statement: &Statement,
) -> Result<(), Error> {
    let moved = sqlx::query(schema.sql(statement)).bind(tenant.as_str()).execute(&mut **tx).await;
    moved.map(drop).map_err(Error::at("move the ingest positions"))
}

/// Saves the ingest positions, and drops this module's objects in the schema.
pub async fn drop_own_objects(
    tx: &mut Tx,
    schema: &Schema,
    tenant: &TenantId,
) -> Result<(), Error> {
    move_positions(tx, schema, tenant, &SAVE_POSITIONS).await?;
    for drop in [&DROP_VIEWS, &DROP_TABLES, &DROP_SEQUENCE, &DROP_FUNCTIONS] {
        run(tx, schema, drop, "drop the objects of this module").await?;
    }
    Ok(())
}

async fn run(
    tx: &mut Tx,
    schema: &Schema,
    statement: &Statement,
    step: &'static str,
) -> Result<(), Error> {
    let done = sqlx::query(schema.sql(statement)).execute(&mut **tx).await;
    done.map(drop).map_err(Error::at(step))
}
