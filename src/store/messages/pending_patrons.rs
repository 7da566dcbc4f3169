//! The pending patrons and the content of the last block event of each patron (docs/decisions/0019).

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::{PgExecutor, types::Json};
use uuid::Uuid;

use crate::{
    blocks::{ApproachingLimits, AutomatedBlocks, Cause},
    event::TenantId,
    store::{Error, Schema, Statement, Tx},
};

const ENABLE: Statement = Statement::new("select {schema}.enable_block_events($1)");

/// Stores the detection settings. If the settings change, the insert requests an evaluation of every
/// patron.
const SET_DETECTION_SETTINGS: Statement = Statement::new(
    "with old as (select approaching_percent from {schema}.block_event_settings),
          set as (update {schema}.block_event_settings set approaching_percent = $1)
     insert into {schema}.pending_group (patron_group, cause)
     select null, $2 from old where old.approaching_percent is distinct from $1",
);

/// Acquires or renews the lease by the database clock. If another instance has a valid lease, no row
/// matches and the lease remains unchanged.
const ACQUIRE_LEASE: Statement = Statement::new(
    "update {schema}.block_event_settings
        set lease_holder = $1, lease_expires_at = case when $1 is null then null
                                           else clock_timestamp() + interval '60 seconds' end
      where lease_holder is null or lease_holder = $1 or lease_expires_at is null
         or lease_expires_at < clock_timestamp()",
);

const RELEASE_LEASE: Statement = Statement::new(
    "update {schema}.block_event_settings set lease_holder = null, lease_expires_at = null where lease_holder = $1",
);

const SELECT_DETECTION_SETTINGS: Statement =
    Statement::new("select approaching_percent from {schema}.block_event_settings");

/// Counts up to a limit. A number above the limit has no further influence.
const COUNT_PENDING: Statement = Statement::new(
    "select (select count(*) from (select from {schema}.pending_patron limit 10000) t) as pending_patrons,
            exists (select from {schema}.pending_group) as has_pending_groups,
            (select count(*) from (select from {schema}.published_patron where reevaluate_at <= $1 limit 10000) d)
              as due_patrons,
            (select count(*) from (select from {schema}.message_outbox where status = 'NEW' limit 100000) m)
              as unsent_messages,
            (select created_at from {schema}.message_outbox where status = 'NEW' order by sequence limit 1)
              as oldest_unsent,
            exists (select from pg_trigger where tgrelid = '{schema}.patron_counter'::regclass
                       and tgname = 'pending_counter_inserted') as is_enabled,
            t.approaching_percent, t.lease_holder, coalesce(t.lease_expires_at > now(), false) as is_leased,
            coalesce(t.lease_expires_at < now() + interval '30 seconds', true) as should_renew
       from {schema}.block_event_settings t",
);

const HAS_NO_PENDING_GROUPS: Statement =
    Statement::new("select not exists (select from {schema}.pending_group)");

/// Inserts the patrons of a changed group, by the topic or mod-users, without regard to case. A change
/// without a group inserts all patrons with anything open and all published patrons.
const EXPAND_PENDING_GROUPS: Statement = Statement::new(
    "with changes as (delete from {schema}.pending_group returning patron_group, cause)
     insert into {schema}.pending_patron (low_priority, user_id, cause)
     select true, user_id, min(cause) from (
       select p.user_id, g.cause
         from changes g join {schema}.patron p on lower(g.patron_group) in (lower(p.topic_group), lower(p.users_group))
         join {schema}.patron_counter c on c.user_id = p.user_id
        where c.open_loans > 0 or c.open_fees_fines > 0
       union all
       select c.user_id, g.cause from changes g, {schema}.patron_counter c
        where g.patron_group is null and (c.open_loans > 0 or c.open_fees_fines > 0)
       union all
       select t.user_id, g.cause from changes g, {schema}.published_patron t where g.patron_group is null) all_of
      group by user_id",
);

const CLAIM_PENDING: Statement = Statement::new(
    "delete from {schema}.pending_patron
      where (low_priority, number) in (
        select low_priority, number from {schema}.pending_patron order by low_priority, number limit $1)
     returning user_id, cause, number",
);

const SELECT_DUE: Statement = Statement::new(
    "select user_id from {schema}.published_patron where reevaluate_at <= $1 order by reevaluate_at limit $2",
);

const SELECT_LAST_PUBLISHED: Statement = Statement::new(
    "select user_id, blocked, approaching, reevaluate_at from {schema}.published_patron where user_id = any($1)",
);

const DELETE_LAST_PUBLISHED: Statement =
    Statement::new("delete from {schema}.published_patron where user_id = any($1)");

const UPSERT_LAST_PUBLISHED: Statement = Statement::new(
    "insert into {schema}.published_patron as t (user_id, blocked, approaching, reevaluate_at)
     select user_id, blocked::jsonb, approaching::jsonb, reevaluate_at
       from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
         as x (user_id, blocked, approaching, reevaluate_at)
     on conflict (user_id) do update set
       blocked = excluded.blocked, approaching = excluded.approaching, reevaluate_at = excluded.reevaluate_at",
);

/// Counts the patrons whose last published blocks name each condition.
const COUNT_BLOCKED: Statement = Statement::new(
    "select block ->> 'patronBlockConditionId' as condition, count(distinct user_id) as patrons
       from {schema}.published_patron, jsonb_array_elements(blocked -> 'blocks') as block
      where jsonb_typeof(blocked -> 'blocks') = 'array' group by 1 order by 2 desc, 1",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &COUNT_BLOCKED,
    &ENABLE,
    &SET_DETECTION_SETTINGS,
    &ACQUIRE_LEASE,
    &RELEASE_LEASE,
    &SELECT_DETECTION_SETTINGS,
    &COUNT_PENDING,
    &HAS_NO_PENDING_GROUPS,
    &EXPAND_PENDING_GROUPS,
    &CLAIM_PENDING,
    &SELECT_DUE,
    &SELECT_LAST_PUBLISHED,
    &DELETE_LAST_PUBLISHED,
    &UPSERT_LAST_PUBLISHED,
];

/// Enables or disables the triggers that record changes of patrons. The caller needs exclusive write
/// access to the tenant's rows.
pub async fn enable(tx: &mut Tx, schema: &Schema, on: bool) -> Result<bool, Error> {
    let set = sqlx::query_scalar(schema.sql(&ENABLE)).bind(on).fetch_one(&mut **tx).await;
    set.map_err(Error::at("switch the recording of changes"))
}

/// The settings of the detect worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectionSettings {
    /// The distance to a limit, in percent, at which the limit is approaching.
    pub approaching_percent: u8,
}

impl DetectionSettings {
    fn from_stored(approaching_percent: Option<i16>) -> Option<Self> {
        let approaching_percent = u8::try_from(approaching_percent?).ok()?;
        Some(Self { approaching_percent })
    }
}

/// Stores the detection settings. If the settings change, every patron becomes pending with this cause.
pub async fn set_detection_settings(
    tx: &mut Tx,
    schema: &Schema,
    settings: DetectionSettings,
    cause: Cause,
) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_DETECTION_SETTINGS))
        .bind(i16::from(settings.approaching_percent));
    let set = set.bind(cause.name());
    let set = set.execute(&mut **tx).await;
    set.map(|_| ()).map_err(Error::at("store the detection settings"))
}

/// Acquires or renews the lease on a tenant's detection settings. A `holder` of `None` clears an expired
/// lease. Returns `false` if another instance has the lease.
pub async fn acquire_lease(
    tx: &mut Tx,
    schema: &Schema,
    holder: Option<Uuid>,
) -> Result<bool, Error> {
    let result = sqlx::query(schema.sql(&ACQUIRE_LEASE)).bind(holder).execute(&mut **tx).await;
    Ok(result.map_err(Error::at("acquire the lease on the detection settings"))?.rows_affected()
        > 0)
}

/// Releases the lease of `holder`.
pub async fn release_lease(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    holder: Uuid,
) -> Result<(), Error> {
    let result = sqlx::query(schema.sql(&RELEASE_LEASE)).bind(holder).execute(db).await;
    result.map(|_| ()).map_err(Error::at("release the lease on the detection settings"))
}

/// Loads the detection settings; returns `None` before the settings were first stored.
pub async fn load_detection_settings(
    db: impl PgExecutor<'_>,
    schema: &Schema,
) -> Result<Option<DetectionSettings>, Error> {
    let percent: Option<Option<i16>> = sqlx::query_scalar(schema.sql(&SELECT_DETECTION_SETTINGS))
        .fetch_optional(db)
        .await
        .map_err(Error::at("read the detection settings"))?;
    Ok(percent.and_then(DetectionSettings::from_stored))
}

/// Sets the cause that the triggers record for pending patrons in this transaction. The default cause is
/// an event.
pub async fn set_cause(tx: &mut Tx, cause: Cause) -> Result<(), Error> {
    let set = "select set_config('patron_blocks.cause', $1, true)";
    let set = sqlx::query(set).bind(cause.name()).execute(&mut **tx).await;
    set.map(|_| ()).map_err(Error::at("set the cause of changes"))
}

/// The pending work of a tenant. The numbers are counted up to a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct PendingCounts {
    /// The number of rows in `pending_patron`, at most 10000.
    pub pending_patrons: i64,
    /// Whether limits or conditions have changed.
    pub has_pending_groups: bool,
    /// The number of patrons with a due moment in the past, at most 10000.
    pub due_patrons: i64,
    /// The number of unsent messages, at most 100000.
    pub unsent_messages: i64,
    /// The creation time of the oldest unsent message.
    pub oldest_unsent: Option<DateTime<Utc>>,
    /// Whether triggers record changes of patrons.
    pub is_enabled: bool,
    /// The value of [`DetectionSettings::approaching_percent`], if the settings were stored.
    pub approaching_percent: Option<i16>,
    /// The instance with the lease on the detection settings.
    pub lease_holder: Option<Uuid>,
    /// Whether the lease is valid.
    pub is_leased: bool,
    /// Whether at most half of the lease time remains, or no lease exists.
    pub should_renew: bool,
}

impl PendingCounts {
    /// Returns the stored detection settings; `None` before the settings were first stored.
    pub fn detection_settings(&self) -> Option<DetectionSettings> {
        DetectionSettings::from_stored(self.approaching_percent)
    }
}

/// Counts the pending work of a tenant at `now`.
pub async fn count_pending(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    now: DateTime<Utc>,
) -> Result<PendingCounts, Error> {
    let counts = sqlx::query_as(schema.sql(&COUNT_PENDING)).bind(now).fetch_one(db).await;
    counts.map_err(Error::at("count pending block events"))
}

/// Returns the conditions that block patrons by the last published blocks, each with its number of patrons.
pub async fn count_blocked(
    db: impl PgExecutor<'_>,
    schema: &Schema,
) -> Result<Vec<(String, i64)>, Error> {
    let counts = sqlx::query_as(schema.sql(&COUNT_BLOCKED)).fetch_all(db).await;
    counts.map_err(Error::at("count blocked patrons"))
}

/// The lock that limits a tenant to one worker of each kind.
#[derive(Debug, Clone, Copy)]
pub enum WorkerLock {
    /// The lock of the detect worker.
    Detect,
    /// The lock of the publish worker.
    Publish,
}

/// Locks the worker until the transaction ends. Returns `false` if another transaction has the lock.
pub async fn try_lock_worker(
    tx: &mut Tx,
    tenant: &TenantId,
    turn: WorkerLock,
) -> Result<bool, Error> {
    let taken = sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtextextended($1, 2))")
        .bind(turn.name(tenant))
        .fetch_one(&mut **tx)
        .await;
    taken.map_err(Error::at("lock a block event worker"))
}

/// Locks the worker as [`try_lock_worker`] does, but waits for the lock.
pub async fn lock_worker(tx: &mut Tx, tenant: &TenantId, turn: WorkerLock) -> Result<(), Error> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 2))")
        .bind(turn.name(tenant))
        .execute(&mut **tx)
        .await
        .map(|_| ())
        .map_err(Error::at("wait for the lock of a block event worker"))
}

impl WorkerLock {
    fn name(self, tenant: &TenantId) -> String {
        let worker = match self {
            Self::Detect => "detect",
            Self::Publish => "publish",
        };
        format!("mod_patron_blocks/{tenant}/{worker}")
    }
}

/// Claims pending patrons, each once, with the first cause. Patrons with changes precede patrons of a
/// changed limit or condition. Due patrons are added with the cause [`Cause::TimePassed`].
///
/// A later change of a claimed patron makes the patron pending again. The flag is `true` if more patrons
/// may be pending.
pub async fn claim_pending(
    tx: &mut Tx,
    schema: &Schema,
    now: DateTime<Utc>,
    most: i64,
) -> Result<(BTreeMap<Uuid, Cause>, bool), Error> {
    let failed = || Error::at("claim pending patrons");
    let is_expanded: bool = sqlx::query_scalar(schema.sql(&HAS_NO_PENDING_GROUPS))
        .fetch_one(&mut **tx)
        .await
        .map_err(failed())?;
    if !is_expanded {
        sqlx::query(schema.sql(&EXPAND_PENDING_GROUPS))
            .execute(&mut **tx)
            .await
            .map_err(failed())?;
    }
    let mut taken: Vec<(Uuid, String, i64)> = sqlx::query_as(schema.sql(&CLAIM_PENDING))
        .bind(most)
        .fetch_all(&mut **tx)
        .await
        .map_err(failed())?;
    taken.sort_by_key(|(.., number)| *number);
    let due: Vec<Uuid> = sqlx::query_scalar(schema.sql(&SELECT_DUE))
        .bind(now)
        .bind(most)
        .fetch_all(&mut **tx)
        .await
        .map_err(failed())?;
    let is_full = |many: usize| i64::try_from(many).is_ok_and(|many| many >= most);
    let more = is_full(taken.len()) || is_full(due.len());
    let mut patrons = BTreeMap::new();
    for (user, cause, _) in taken {
        patrons.entry(user).or_insert_with(|| Cause::from_name(&cause).unwrap_or(Cause::Event));
    }
    for user in due {
        patrons.entry(user).or_insert(Cause::TimePassed);
    }
    Ok((patrons, more))
}

/// The content of a patron's last block events, and the next due moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LastPublished {
    /// The published blocks.
    pub blocked: Option<AutomatedBlocks>,
    /// The published limits that are approaching.
    pub approaching: Option<ApproachingLimits>,
    /// The moment of the next evaluation without a change of the patron.
    pub reevaluate_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct LastPublishedRow {
    user_id: Uuid,
    blocked: Option<Json<AutomatedBlocks>>,
    approaching: Option<Json<ApproachingLimits>>,
    reevaluate_at: Option<DateTime<Utc>>,
}

fn unwrap_json<T: DeserializeOwned>(json: Option<Json<T>>) -> Option<T> {
    json.map(|Json(value)| value)
}

/// Loads the last published content of these patrons.
pub async fn load_last_published(
    tx: &mut Tx,
    schema: &Schema,
    users: &[Uuid],
) -> Result<HashMap<Uuid, LastPublished>, Error> {
    let rows: Vec<LastPublishedRow> = sqlx::query_as(schema.sql(&SELECT_LAST_PUBLISHED))
        .bind(users)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("load the last published blocks"))?;
    let last = |LastPublishedRow { user_id, blocked, approaching, reevaluate_at: look_at }: LastPublishedRow| {
        (user_id, LastPublished { blocked: unwrap_json(blocked), approaching: unwrap_json(approaching), reevaluate_at: look_at })
    };
    Ok(rows.into_iter().map(last).collect())
}

/// Stores the last published content of patrons. A patron with empty content is deleted.
pub async fn store_last_published(
    tx: &mut Tx,
    schema: &Schema,
    patrons: &[(Uuid, LastPublished)],
) -> Result<(), Error> {
    let failed = || Error::at("record published blocks");
    let text = |value: serde_json::Result<String>| {
        value.expect("serialization of published blocks cannot fail")
    };
    let nothing: Vec<Uuid> = patrons
        .iter()
        .filter(|(_, last)| *last == LastPublished::default())
        .map(|(user, _)| *user)
        .collect();
    if !nothing.is_empty() {
        let gone = sqlx::query(schema.sql(&DELETE_LAST_PUBLISHED)).bind(nothing);
        gone.execute(&mut **tx).await.map_err(failed())?;
    }
    let (mut users, mut blocked, mut approaching, mut look_at) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (user, last) in patrons.iter().filter(|(_, last)| *last != LastPublished::default()) {
        users.push(*user);
        blocked.push(last.blocked.as_ref().map(|published| text(serde_json::to_string(published))));
        approaching.push(
            last.approaching.as_ref().map(|published| text(serde_json::to_string(published))),
        );
        look_at.push(last.reevaluate_at);
    }
    if !users.is_empty() {
        let query = sqlx::query(schema.sql(&UPSERT_LAST_PUBLISHED));
        let query = query.bind(users).bind(blocked).bind(approaching).bind(look_at);
        query.execute(&mut **tx).await.map_err(failed())?;
    }
    Ok(())
}
