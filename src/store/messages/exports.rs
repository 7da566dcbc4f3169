//! Summary exports as stored, and the summaries that an export publishes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use crate::{
    event::TenantId,
    store::{Error, Schema, Statement, Tx},
};

/// Restricts patrons to a group by the rule of `patrons::PatronState::known_group`. Without a group,
/// every patron matches.
macro_rules! of_group {
    () => {
        "($1::text is null or exists (
           select from {schema}.patron p where p.user_id = s.user_id and lower($1) = lower(
             case when p.topic_group_at >= p.users_group_at or p.users_group_at is null
                  then p.topic_group else p.users_group end)))"
    };
}

const COUNT_SUMMARIES: Statement = Statement::new(concat!(
    "select count(*) from {schema}.patron_counter s
      where (s.open_loans > 0 or s.open_fees_fines > 0) and ",
    of_group!()
));

const SELECT_SUMMARIES_PAGE: Statement = Statement::new(concat!(
    "select s.user_id, s.jsonb::text from {schema}.user_summary s where s.user_id > $2 and ",
    of_group!(),
    " order by s.user_id limit $3"
));

/// Selects the summaries of these patrons, with a null for a patron without an open loan or fee/fine.
const SELECT_SUMMARIES_OF_PATRONS: Statement = Statement::new(
    "select s.user_id, u.jsonb::text from unnest($1::uuid[]) as s (user_id)
       left join {schema}.user_summary u on u.user_id = s.user_id order by s.user_id",
);

/// Selects patrons with events in the inbox, or with applied differences, since `$2`. An event without a
/// subject, such as the deletion of all loans, selects every patron.
const SELECT_CHANGED_PATRONS: Statement = Statement::new(concat!(
    "select s.user_id from (
       select coalesce(l.user_id, f.user_id, i.user_id) as user_id
         from {schema}.inbox i
         left join {schema}.loan l on l.loan_id = i.subject
         left join {schema}.fee_fine f on f.fee_fine_id = i.subject
        where i.received_at >= $2
       union
       select i.user_id from {schema}.inbox i where i.received_at >= $2
       union
       select user_id from {schema}.rebuild_patron where applied_at >= $2
       union
       select c.user_id from {schema}.patron_counter c
        where exists (select from {schema}.inbox i where i.received_at >= $2 and i.subject is null)) s
      where s.user_id is not null and ",
    of_group!(),
    " order by 1"
));

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &COUNT_SUMMARIES,
    &SELECT_SUMMARIES_PAGE,
    &SELECT_SUMMARIES_OF_PATRONS,
    &SELECT_CHANGED_PATRONS,
];

macro_rules! columns {
    () => {
        "id, tenant, topic, event_type, patron_group, changed_since, status, requested_by, requested_at, started_at,
         ended_at, total, published, last_user, error"
    };
}

/// A summary export as stored.
#[derive(Debug, Clone, FromRow)]
pub struct SummaryExport {
    /// The id of the export, which every event of the export contains.
    pub id: Uuid,
    /// The tenant.
    #[sqlx(try_from = "String")]
    pub tenant: TenantId,
    /// The full name of the topic.
    pub topic: String,
    /// The type of the published events.
    pub event_type: String,
    /// The patron group to which the export is limited.
    pub patron_group: Option<String>,
    /// The time since when a patron must have changed to be exported.
    pub changed_since: Option<DateTime<Utc>>,
    /// The status: `waiting`, `publishing`, `done`, `failed` or `cancelled`.
    pub status: String,
    /// The user who requested the export.
    pub requested_by: String,
    /// The time of the request.
    pub requested_at: DateTime<Utc>,
    /// The time of the first claim by an instance.
    pub started_at: Option<DateTime<Utc>>,
    /// The time of the end.
    pub ended_at: Option<DateTime<Utc>>,
    /// The number of summaries to publish.
    pub total: Option<i64>,
    /// The number of acknowledged summaries.
    pub published: i64,
    /// The last patron in id order up to whom every summary is acknowledged.
    pub last_user: Option<Uuid>,
    /// The cause of a failure.
    pub error: Option<String>,
}

/// The request for a summary export.
#[derive(Debug, Clone)]
pub struct NewExport<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The full name of the topic.
    pub topic: &'a str,
    /// The type of the published events.
    pub event_type: &'a str,
    /// The patron group to which the export is limited.
    pub patron_group: Option<&'a str>,
    /// The time since when a patron must have changed to be exported.
    pub changed_since: Option<DateTime<Utc>>,
    /// The user who requests the export.
    pub requested_by: &'a str,
}

/// The number of days after which an ended export is deleted.
const ENDED_RETENTION_DAYS: i32 = 90;

/// Inserts an export that any instance may claim, and deletes exports that ended before the retention
/// time.
pub async fn insert(
    db: impl PgExecutor<'_>,
    id: Uuid,
    export: NewExport<'_>,
) -> Result<SummaryExport, Error> {
    const INSERT: &str = concat!(
        "with old as (delete from mod_patron_blocks.summary_export where ended_at < now() - make_interval(days => $8))
         insert into mod_patron_blocks.summary_export
           (id, tenant, topic, event_type, patron_group, changed_since, requested_by, requested_at)
         values ($1, $2, $3, $4, $5, $6, $7, now()) returning ",
        columns!()
    );
    sqlx::query_as(INSERT)
        .bind(id)
        .bind(export.tenant.as_str())
        .bind(export.topic)
        .bind(export.event_type)
        .bind(export.patron_group)
        .bind(export.changed_since)
        .bind(export.requested_by)
        .bind(ENDED_RETENTION_DAYS)
        .fetch_one(db)
        .await
        .map_err(Error::at("insert a summary export"))
}

/// Claims the oldest export without a valid lease. An export with an earlier claim is ordered by the end
/// of its lease.
pub async fn claim(
    db: impl PgExecutor<'_>,
    holder: Uuid,
    lease: Duration,
) -> Result<Option<SummaryExport>, Error> {
    const CLAIM: &str = concat!(
        "update mod_patron_blocks.summary_export
            set status = 'publishing', lease_holder = $1, lease_expires_at = now() + $2 * interval '1 second',
                started_at = coalesce(started_at, now())
          where id = (select id from mod_patron_blocks.summary_export
                       where ended_at is null and (lease_expires_at is null or lease_expires_at < now())
                       order by coalesce(lease_expires_at, requested_at) limit 1 for update skip locked)
         returning ",
        columns!()
    );
    let taken =
        sqlx::query_as(CLAIM).bind(holder).bind(lease.as_secs_f64()).fetch_optional(db).await;
    taken.map_err(Error::at("claim a summary export"))
}

/// The progress of an export, as the lease holder reports it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportProgress {
    /// The number of summaries to publish, once known.
    pub total: Option<i64>,
    /// The number of acknowledged summaries.
    pub published: i64,
    /// The last patron in id order up to whom every summary is acknowledged.
    pub last_user: Option<Uuid>,
}

/// Records the progress of an export and renews the lease. Returns `false` if the export has ended, for
/// example by cancellation, or another instance has the lease.
pub async fn record_progress(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    lease: Duration,
    progress: ExportProgress,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.summary_export
            set lease_expires_at = now() + $3 * interval '1 second', total = coalesce($4, total),
                published = $5, last_user = coalesce($6, last_user)
          where id = $1 and lease_holder = $2 and ended_at is null",
    );
    let done = done.bind(id).bind(holder).bind(lease.as_secs_f64());
    let done = done.bind(progress.total).bind(progress.published).bind(progress.last_user);
    let done =
        done.execute(db).await.map_err(Error::at("record the progress of a summary export"))?;
    Ok(done.rows_affected() == 1)
}

/// Ends the holder's export as failed with `error`, or as done without an error.
pub async fn finish(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    error: Option<&str>,
) -> Result<(), Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.summary_export
            set status = case when $3::text is null then 'done' else 'failed' end, error = $3,
                ended_at = now(), lease_expires_at = null
          where id = $1 and lease_holder = $2 and ended_at is null",
    );
    let done = done.bind(id).bind(holder).bind(error).execute(db).await;
    done.map(|_| ()).map_err(Error::at("complete a summary export"))
}

/// Returns whether the holder's lease still exists. The row lock prevents a claim by another instance
/// until the transaction ends.
pub async fn is_lease_valid(tx: &mut Tx, id: Uuid, holder: Uuid) -> Result<bool, Error> {
    let ours: Option<Uuid> = sqlx::query_scalar(
        "select id from mod_patron_blocks.summary_export where id = $1 and lease_holder = $2 and ended_at is null
            for share",
    )
    .bind(id)
    .bind(holder)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::at("check the lease of a summary export"))?;
    Ok(ours.is_some())
}

/// Renews the lease of an export. Returns `false` if the export has ended or another instance has the
/// lease.
pub async fn renew(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    lease: Duration,
) -> Result<bool, Error> {
    let set = "update mod_patron_blocks.summary_export set lease_expires_at = now() + $3 * interval '1 second'
                where id = $1 and lease_holder = $2 and ended_at is null";
    let set = sqlx::query(set).bind(id).bind(holder).bind(lease.as_secs_f64()).execute(db).await;
    Ok(set.map_err(Error::at("renew the lease of a summary export"))?.rows_affected() == 1)
}

/// Releases the lease of an export. Any instance may claim the export after `retry_delay`.
pub async fn release(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    retry_delay: Duration,
) -> Result<(), Error> {
    let set = "update mod_patron_blocks.summary_export
                  set lease_expires_at = now() + $3 * interval '1 second', lease_holder = null
                where id = $1 and lease_holder = $2 and ended_at is null";
    let done =
        sqlx::query(set).bind(id).bind(holder).bind(retry_delay.as_secs_f64()).execute(db).await;
    done.map(|_| ()).map_err(Error::at("release a summary export"))
}

/// Cancels an export. Returns `false` if the export does not exist or has already ended.
pub async fn cancel(db: impl PgExecutor<'_>, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.summary_export set status = 'cancelled', ended_at = now(), lease_expires_at = null
          where id = $1 and tenant = $2 and ended_at is null",
    );
    let done = done.bind(id).bind(tenant.as_str()).execute(db).await;
    Ok(done.map_err(Error::at("cancel a summary export"))?.rows_affected() == 1)
}

/// Returns an export of the tenant.
pub async fn find(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    id: Uuid,
) -> Result<Option<SummaryExport>, Error> {
    const FIND: &str = concat!(
        "select ",
        columns!(),
        " from mod_patron_blocks.summary_export where id = $1 and tenant = $2"
    );
    let found = sqlx::query_as(FIND).bind(id).bind(tenant.as_str()).fetch_optional(db).await;
    found.map_err(Error::at("find a summary export"))
}

/// Returns a page of the tenant's exports, the newest first, and the number of all exports.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    limit: i64,
    offset: i64,
) -> Result<(Vec<SummaryExport>, i64), Error> {
    #[derive(FromRow)]
    struct Counted {
        #[sqlx(flatten)]
        export: SummaryExport,
        total_records: i64,
    }
    const LIST: &str = concat!(
        "select ",
        columns!(),
        ", count(*) over () as total_records from mod_patron_blocks.summary_export
          where tenant = $1 order by requested_at desc, id limit $2 offset $3"
    );
    let found = sqlx::query_as(LIST).bind(tenant.as_str()).bind(limit).bind(offset);
    let found: Vec<Counted> =
        found.fetch_all(db).await.map_err(Error::at("list summary exports"))?;
    let total = found.first().map_or(0, |counted| counted.total_records);
    Ok((found.into_iter().map(|counted| counted.export).collect(), total))
}

/// Deletes all exports of a tenant, after the tenant's schema was dropped.
pub async fn delete_all(tx: &mut Tx, tenant: &TenantId) -> Result<(), Error> {
    let gone = sqlx::query("delete from mod_patron_blocks.summary_export where tenant = $1");
    let gone = gone.bind(tenant.as_str()).execute(&mut **tx).await;
    gone.map(|_| ()).map_err(Error::at("delete summary exports"))
}

/// Returns the number of patrons of this group, or of all groups, with an open loan or fee/fine.
pub async fn count_summaries(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    group: Option<&str>,
) -> Result<i64, Error> {
    let count = sqlx::query_scalar(schema.sql(&COUNT_SUMMARIES)).bind(group);
    count.fetch_one(db).await.map_err(Error::at("count summaries"))
}

/// Returns the next summaries after a patron, as JSON text.
pub async fn summaries_page(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    group: Option<&str>,
    after: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, Option<String>)>, Error> {
    let page = sqlx::query_as(schema.sql(&SELECT_SUMMARIES_PAGE)).bind(group);
    let page = page.bind(after).bind(most).fetch_all(db).await;
    page.map_err(Error::at("read summaries"))
}

/// Returns the summaries of these patrons; `None` for a patron without an open loan or fee/fine.
pub async fn summaries_of_patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    users: &[Uuid],
) -> Result<Vec<(Uuid, Option<String>)>, Error> {
    let these =
        sqlx::query_as(schema.sql(&SELECT_SUMMARIES_OF_PATRONS)).bind(users).fetch_all(db).await;
    these.map_err(Error::at("read summaries"))
}

/// Returns the patrons that changed since `time`, in id order. The query reads the whole inbox.
pub async fn list_changed_patrons(
    tx: &mut Tx,
    schema: &Schema,
    group: Option<&str>,
    time: DateTime<Utc>,
) -> Result<Vec<Uuid>, Error> {
    let failed = || Error::at("list the changed patrons");
    let longer = sqlx::query("select set_config('statement_timeout', '900000', true)");
    longer.execute(&mut **tx).await.map_err(failed())?;
    let changed = sqlx::query_scalar(schema.sql(&SELECT_CHANGED_PATRONS)).bind(group);
    changed.bind(time).fetch_all(&mut **tx).await.map_err(failed())
}
