//! The shadow of a tenant: a schema with the tables of one rebuild, which contain the state from the
//! rebuild's source. The tables are unlogged. A crash of the database empties every table, including the
//! stored read progress.

mod candidates;
mod unreadable;

pub use candidates::{candidates_page, find_candidates};
use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
pub use unreadable::{record_unreadable, unreadable_among, would_close_unreadable};
use uuid::Uuid;

use crate::{
    event::stamp::Horizon,
    patron::{Coverage, Scope},
    store::{Error, Schema, Statement, Tx, state::merge},
};

/// The statements that create a shadow, in order of execution.
pub const CREATE: [Statement; 18] = [
    Statement::new("drop schema if exists {schema} cascade"),
    Statement::new("create schema {schema}"),
    Statement::new(
        "create unlogged table {schema}.loan (like {live}.loan including defaults including generated)",
    ),
    // No query on a shadow uses these columns, and each column costs time per row.
    Statement::new(
        "alter table {schema}.loan drop due_date, drop recall, drop lost, drop claimed_returned, drop overdue_from,
           drop previous_user, drop previous_open, drop previous_lost,
           drop previous_claimed, drop previous_recall",
    ),
    Statement::new(
        "create unlogged table {schema}.fee_fine (like {live}.fee_fine including defaults including generated)",
    ),
    Statement::new(
        "alter table {schema}.fee_fine drop previous_user, drop previous_open, drop previous_balance",
    ),
    Statement::new(
        "create unlogged table {schema}.patron_counter (like {live}.patron_counter including all)",
    ),
    Statement::new("create unlogged table {schema}.patron (like {live}.patron including all)"),
    Statement::new("create unlogged table {schema}.patron_horizon (like {live}.patron_horizon including all)"),
    Statement::new(
        "create unlogged table {schema}.housekeeping (like {live}.housekeeping including all)",
    ),
    Statement::new(
        "create unlogged table {schema}.tenant_horizon (like {live}.tenant_horizon including all)",
    ),
    Statement::new("insert into {schema}.patron_horizon select * from {live}.patron_horizon"),
    Statement::new("insert into {schema}.tenant_horizon select * from {live}.tenant_horizon"),
    Statement::new("insert into {schema}.housekeeping default values"),
    Statement::new(
        "create unlogged table {schema}.replay_position (
           topic text, partition integer, next_offset bigint not null, end_offset bigint not null,
           primary key (topic, partition))",
    ),
    Statement::new(
        "create unlogged table {schema}.shadow_state (
           is_complete boolean not null, log_since bytea, http_since bytea, read_started_at timestamptz not null,
           incomplete_before timestamptz, scanned_source text, scanned_up_to uuid,
           changed_groups bigint not null default 0)",
    ),
    Statement::new("create unlogged table {schema}.unreadable_subject (subject uuid primary key)"),
    Statement::new(
        "create unlogged table {schema}.candidate ( subject uuid primary key, is_loan boolean not null)",
    ),
];

const DROP: Statement = Statement::new("drop schema if exists {schema} cascade");

/// Inserts the state of a shadow. If the coverage starts at `$1`, the shadow's prune horizon is the
/// smaller of `$1` and the tenant's prune horizon. A source with partial coverage permits no stronger
/// claim about old loans than pruned rows do.
const INSERT_STATE: Statement = Statement::new(
    "with pruned as (
       update {schema}.housekeeping
          set prune_horizon = nullif(least($1::bytea, (select prune_horizon from {live}.housekeeping)),
                                     '\\xffffffffffffffff')
        where $1::bytea is not null)
     insert into {schema}.shadow_state (is_complete, log_since, read_started_at, incomplete_before)
     values (false, $1, $2, $3)",
);

const SELECT_STATE: Statement = Statement::new(
    "select is_complete, log_since, http_since, read_started_at, incomplete_before, scanned_source, scanned_up_to,
            changed_groups
       from {schema}.shadow_state",
);

const RECORD_SCAN_POSITION: Statement =
    Statement::new("update {schema}.shadow_state set scanned_source = $1, scanned_up_to = $2");

const RECORD_TENANT_HORIZON: Statement = Statement::new(
    "insert into {schema}.tenant_horizon as t (horizon) values ($1)
     on conflict (singleton) do update set horizon = greatest(t.horizon, excluded.horizon)",
);

const RECORD_PATRON_HORIZON: Statement = Statement::new(
    "insert into {schema}.patron_horizon as t (user_id, horizon) values ($1, $2)
     on conflict (user_id) do update set horizon = greatest(t.horizon, excluded.horizon)",
);

/// Counts the patrons with a newer group in the source than in the tenant's tables.
const COUNT_CHANGED_GROUPS: Statement = Statement::new(
    "update {schema}.shadow_state set changed_groups = (
       select count(*) from {schema}.patron s left join {live}.patron l on l.user_id = s.user_id
        where l.topic_group_stamp is null or l.topic_group_stamp < s.topic_group_stamp)",
);

const APPLY_GROUPS_PAGE: Statement = Statement::new(
    "with part as (
       select user_id, topic_group, topic_group_stamp, topic_group_at from {schema}.patron
        where user_id > $1 and topic_group_stamp is not null order by user_id limit $2
     ), applied as (
       insert into {live}.patron as t (user_id, topic_group, topic_group_stamp, topic_group_at) select * from part
       on conflict (user_id) do update set
         topic_group = excluded.topic_group, topic_group_stamp = excluded.topic_group_stamp,
         topic_group_at = excluded.topic_group_at
         where t.topic_group_stamp is null or t.topic_group_stamp < excluded.topic_group_stamp)
     select max(user_id::text)::uuid from part",
);

const APPLY_GROUPS_OF_PATRONS: Statement = Statement::new(
    "insert into {live}.patron as t (user_id, topic_group, topic_group_stamp, topic_group_at)
     select user_id, topic_group, topic_group_stamp, topic_group_at from {schema}.patron
      where user_id = any($1) and topic_group_stamp is not null
     on conflict (user_id) do update set
       topic_group = excluded.topic_group, topic_group_stamp = excluded.topic_group_stamp,
       topic_group_at = excluded.topic_group_at
       where t.topic_group_stamp is null or t.topic_group_stamp < excluded.topic_group_stamp",
);

/// Raises the tenant's snapshot horizons to the horizons of the source, and returns a row only if one was
/// raised.
const APPLY_TENANT_HORIZON: Statement = Statement::new(
    "insert into {live}.tenant_horizon as t (horizon, loans_horizon)
     select s.horizon, s.loans_horizon from {schema}.tenant_horizon s
     on conflict (singleton) do update set
       horizon = greatest(t.horizon, excluded.horizon),
       loans_horizon = greatest(t.loans_horizon, excluded.loans_horizon)
       where t.horizon < excluded.horizon or excluded.loans_horizon > coalesce(t.loans_horizon, '')
     returning t.horizon, greatest(t.horizon, t.loans_horizon)",
);

const APPLY_PATRON_HORIZON: Statement = Statement::new(
    "insert into {live}.patron_horizon as t (user_id, horizon)
     select s.user_id, s.horizon from {schema}.patron_horizon s where s.user_id = $1
     on conflict (user_id) do update set horizon = excluded.horizon where t.horizon < excluded.horizon
     returning t.horizon, t.horizon",
);

const SET_COMPLETE: Statement = Statement::new(
    "update {schema}.shadow_state set is_complete = true, log_since = $1, http_since = $2",
);

const UPSERT_REPLAY_POSITIONS: Statement = Statement::new(
    "insert into {schema}.replay_position (topic, partition, next_offset, end_offset)
     select * from unnest($1::text[], $2::int4[], $3::int8[], $4::int8[])
     on conflict (topic, partition) do update set next_offset = excluded.next_offset",
);

const SELECT_REPLAY_POSITIONS: Statement = Statement::new(
    "select topic, partition, next_offset, end_offset from {schema}.replay_position order by topic, partition",
);

/// A test prepares these statements on an existing shadow. The statements of [`CREATE`] cannot be prepared.
pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &DROP,
    &INSERT_STATE,
    &SELECT_STATE,
    &RECORD_SCAN_POSITION,
    &RECORD_TENANT_HORIZON,
    &RECORD_PATRON_HORIZON,
    &unreadable::INSERT_UNREADABLE,
    &unreadable::SELECT_UNREADABLE,
    &unreadable::WOULD_CLOSE_UNREADABLE,
    &APPLY_GROUPS_OF_PATRONS,
    &COUNT_CHANGED_GROUPS,
    &APPLY_GROUPS_PAGE,
    &APPLY_TENANT_HORIZON,
    &APPLY_PATRON_HORIZON,
    &SET_COMPLETE,
    &UPSERT_REPLAY_POSITIONS,
    &SELECT_REPLAY_POSITIONS,
    &candidates::FIND_CANDIDATES,
    &candidates::DELETE_CANDIDATES,
    &candidates::SELECT_CANDIDATES_PAGE,
    &candidates::COUNT_CANDIDATES,
];

/// The read progress and the coverage of a shadow.
#[derive(Debug, Clone)]
pub struct ShadowState {
    /// Whether the shadow contains the whole source.
    pub is_complete: bool,
    /// The time since when the source contains every event. The value is an estimate until `is_complete`
    /// is `true`.
    pub coverage: Coverage,
    /// The start of reading. The shadow lacks the events that the inbox received since then.
    pub read_started_at: DateTime<Utc>,
    /// The time before which the source is known to lack events.
    pub incomplete_before: Option<DateTime<Utc>>,
    /// The source that is read in id order, if any.
    pub scanned_source: Option<String>,
    /// The last id that was read from `scanned_source`.
    pub scanned_up_to: Option<Uuid>,
    /// The number of patrons with a newer group in the source than in the tenant's tables.
    pub changed_groups: i64,
}

/// The progress of reading one partition into a shadow.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ReplayPosition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub next_offset: i64,
    /// The offset after the last record to read.
    pub end_offset: i64,
}

/// Creates an empty shadow and replaces an existing shadow of the same rebuild.
pub async fn create(
    tx: &mut Tx,
    shadow: &Schema,
    log_since: Option<Horizon>,
    read_started_at: DateTime<Utc>,
    incomplete_before: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    for statement in &CREATE {
        let made = sqlx::query(shadow.sql(statement)).execute(&mut **tx).await;
        made.map_err(Error::at("create a shadow"))?;
    }
    sqlx::query(shadow.sql(&INSERT_STATE))
        .bind(log_since.as_ref().map(Horizon::as_bytes))
        .bind(read_started_at)
        .bind(incomplete_before)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("create a shadow"))?;
    Ok(())
}

/// Drops a shadow if the shadow exists.
pub async fn remove(db: impl PgExecutor<'_>, shadow: &Schema) -> Result<(), Error> {
    let removed = sqlx::query(shadow.sql(&DROP)).execute(db).await;
    removed.map(|_| ()).map_err(Error::at("drop a shadow"))
}

/// Returns the ids of a tenant's shadows without an active rebuild. Each id has only the digits from the
/// schema's name.
pub async fn orphans(db: impl PgExecutor<'_>, live: &Schema) -> Result<Vec<Uuid>, Error> {
    let found: Vec<String> = sqlx::query_scalar(
        "select right(nspname, 8) from pg_namespace
          where starts_with(nspname, $1 || '_r') and length(nspname) = length($1) + 10
            and not exists (select from mod_patron_blocks.job
                             where kind = 'rebuild' and ended_at is null and left(id::text, 8) = right(nspname, 8))",
    )
    .bind(live.name())
    .fetch_all(db)
    .await
    .map_err(Error::at("list orphaned shadows"))?;
    let numbers = found.iter().filter_map(|name| u32::from_str_radix(name, 16).ok());
    Ok(numbers.map(|number| Uuid::from_fields(number, 0, 0, &[0; 8])).collect())
}

/// Loads the state of a shadow. Returns `None` if the shadow does not exist or a crash of the database
/// has emptied it.
pub async fn load_state(tx: &mut Tx, shadow: &Schema) -> Result<Option<ShadowState>, Error> {
    let is_there: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(format!("{}.shadow_state", shadow.name()))
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::at("find a shadow"))?;
    if !is_there {
        return Ok(None);
    }
    type Row = (
        bool,
        Option<Vec<u8>>,
        Option<Vec<u8>>,
        DateTime<Utc>,
        Option<DateTime<Utc>>,
        Option<String>,
        Option<Uuid>,
        i64,
    );
    let row: Option<Row> = sqlx::query_as(shadow.sql(&SELECT_STATE))
        .fetch_optional(&mut **tx)
        .await
        .map_err(Error::at("read the state of a shadow"))?;
    let horizon = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| Horizon::from_bytes(&bytes));
    let read = |(
        is_complete,
        log,
        http,
        read_started_at,
        incomplete_before,
        scanned_source,
        scanned_up_to,
        changed_groups,
    ): Row| ShadowState {
        is_complete,
        coverage: Coverage { log: horizon(log), http: horizon(http) },
        read_started_at,
        incomplete_before,
        scanned_source,
        scanned_up_to,
        changed_groups,
    };
    Ok(row.map(read))
}

/// Records the last id that was read from a source: the inbox or the storage modules.
pub async fn record_scan_position(
    tx: &mut Tx,
    shadow: &Schema,
    source: &str,
    last_id: Option<Uuid>,
) -> Result<(), Error> {
    let result = sqlx::query(shadow.sql(&RECORD_SCAN_POSITION))
        .bind(source)
        .bind(last_id)
        .execute(&mut **tx)
        .await;
    result.map(|_| ()).map_err(Error::at("record the read position of a source"))
}

/// Records that the source is a complete snapshot of a tenant or of one patron.
pub async fn record_horizon(
    tx: &mut Tx,
    shadow: &Schema,
    scope: Scope,
    horizon: Horizon,
) -> Result<(), Error> {
    let horizon = horizon.as_bytes();
    let insert = match scope {
        Scope::Tenant => sqlx::query(shadow.sql(&RECORD_TENANT_HORIZON)).bind(horizon),
        Scope::Patron(user) => {
            sqlx::query(shadow.sql(&RECORD_PATRON_HORIZON)).bind(user).bind(horizon)
        }
    };
    insert.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("record a snapshot horizon"))
}

/// Applies the snapshot horizon of the source to a tenant or a patron, and closes older loans and
/// fees/fines. The caller needs exclusive write access to the tenant's rows.
pub async fn apply_horizon(
    tx: &mut Tx,
    shadow: &Schema,
    live: &Schema,
    scope: Scope,
) -> Result<(), Error> {
    let apply = match scope {
        Scope::Tenant => sqlx::query_as(shadow.sql(&APPLY_TENANT_HORIZON)),
        Scope::Patron(user) => sqlx::query_as(shadow.sql(&APPLY_PATRON_HORIZON)).bind(user),
    };
    let horizons: Option<(Vec<u8>, Vec<u8>)> =
        apply.fetch_optional(&mut **tx).await.map_err(Error::at("apply a snapshot horizon"))?;
    let Some((of_fees, of_loans)) = horizons else { return Ok(()) };
    if let (Some(of_fees), Some(of_loans)) =
        (Horizon::from_bytes(&of_fees), Horizon::from_bytes(&of_loans))
    {
        merge::close_loans(tx, live, scope, of_loans).await?;
        merge::close_fees(tx, live, scope, of_fees).await?;
    }
    Ok(())
}

/// Counts and stores the number of patrons with a newer group in the source than in the tenant's tables.
pub async fn count_changed_groups(tx: &mut Tx, shadow: &Schema) -> Result<(), Error> {
    let counted = sqlx::query(shadow.sql(&COUNT_CHANGED_GROUPS)).execute(&mut **tx).await;
    counted.map(|_| ()).map_err(Error::at("compare patron groups"))
}

/// Applies the patron groups of the source to these patrons.
pub async fn apply_groups_of_patrons(
    tx: &mut Tx,
    shadow: &Schema,
    users: &[Uuid],
) -> Result<(), Error> {
    let result =
        sqlx::query(shadow.sql(&APPLY_GROUPS_OF_PATRONS)).bind(users).execute(&mut **tx).await;
    result.map(|_| ()).map_err(Error::at("apply the patron groups of a source"))
}

/// Applies the patron groups of the source to the next `most` patrons after `after`. Returns the last of
/// these patrons.
pub async fn apply_groups_page(
    tx: &mut Tx,
    shadow: &Schema,
    after: Uuid,
    most: i64,
) -> Result<Option<Uuid>, Error> {
    let last = sqlx::query_scalar(shadow.sql(&APPLY_GROUPS_PAGE)).bind(after).bind(most);
    last.fetch_one(&mut **tx).await.map_err(Error::at("apply the patron groups of a source"))
}

/// Records that the shadow contains the whole source, and the coverage of the source.
pub async fn set_complete(tx: &mut Tx, shadow: &Schema, coverage: &Coverage) -> Result<(), Error> {
    let bytes = |horizon: &Option<Horizon>| horizon.map(|h| h.as_bytes().to_vec());
    let set = sqlx::query(shadow.sql(&SET_COMPLETE))
        .bind(bytes(&coverage.log))
        .bind(bytes(&coverage.http));
    set.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("mark a shadow as complete"))
}

/// Stores the read progress of partitions.
pub async fn save_replay_positions(
    tx: &mut Tx,
    shadow: &Schema,
    of: &[ReplayPosition],
) -> Result<(), Error> {
    let (mut topics, mut partitions) = (Vec::new(), Vec::new());
    let (mut next, mut ends) = (Vec::new(), Vec::new());
    for reading in of {
        topics.push(&*reading.topic);
        partitions.push(reading.partition);
        next.push(reading.next_offset);
        ends.push(reading.end_offset);
    }
    sqlx::query(shadow.sql(&UPSERT_REPLAY_POSITIONS))
        .bind(topics)
        .bind(partitions)
        .bind(next)
        .bind(ends)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("record the read positions of topics"))?;
    Ok(())
}

/// Loads the read progress of all partitions.
pub async fn load_replay_positions(
    tx: &mut Tx,
    shadow: &Schema,
) -> Result<Vec<ReplayPosition>, Error> {
    let read = sqlx::query_as(shadow.sql(&SELECT_REPLAY_POSITIONS)).fetch_all(&mut **tx).await;
    read.map_err(Error::at("read the read positions of topics"))
}
