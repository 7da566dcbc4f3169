//! Iterations as stored, and the summaries that they publish.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};
use crate::event::TenantId;

/// Which patrons: those of a group by the rule of `patrons::State::known_group`, or all.
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

/// Of these patrons, whether they have anything open or not.
const SELECT_SUMMARIES_OF_PATRONS: Statement = Statement::new(
    "select s.user_id, u.jsonb::text from unnest($1::uuid[]) as s (user_id)
       left join {schema}.user_summary u on u.user_id = s.user_id order by s.user_id",
);

/// By what the inbox was told since, and by what rebuilds have put right. That all loans were deleted is
/// about no subject, and concerns all.
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

pub(super) const STATEMENTS: &[&Statement] = &[
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

/// An iteration as stored.
#[derive(Debug, Clone, FromRow)]
pub struct SummaryExport {
    /// Its id, which is in every event of it.
    pub id: Uuid,
    /// The tenant.
    #[sqlx(try_from = "String")]
    pub tenant: TenantId,
    /// Full name of the topic.
    pub topic: String,
    /// The type of its events.
    pub event_type: String,
    /// Only patrons of this group.
    pub patron_group: Option<String>,
    /// Only patrons of whom something has changed since.
    pub changed_since: Option<DateTime<Utc>>,
    /// How far it is: waiting, publishing, done, failed or cancelled.
    pub status: String,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// When an instance first worked on it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How many there are to be published.
    pub total: Option<i64>,
    /// How many are acknowledged.
    pub published: i64,
    /// All up to this patron are.
    pub last_user: Option<Uuid>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct NewExport<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// Full name of the topic.
    pub topic: &'a str,
    /// The type of its events.
    pub event_type: &'a str,
    /// Only patrons of this group.
    pub patron_group: Option<&'a str>,
    /// Only patrons of whom something has changed since.
    pub changed_since: Option<DateTime<Utc>>,
    /// Who asks.
    pub requested_by: &'a str,
}

/// How many days an iteration that has ended is kept.
const ENDED_RETENTION_DAYS: i32 = 90;

/// Enters an iteration for any instance to work on. Old ones that have ended go.
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
        .map_err(Error::at("enter an iteration"))
}

/// Takes the oldest iteration that nobody works on, those that had to be let be last of all.
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
    taken.map_err(Error::at("take an iteration"))
}

/// How far an iteration is for whoever holds it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportProgress {
    /// How many there are in all, once that is known.
    pub total: Option<i64>,
    /// How many are acknowledged.
    pub published: i64,
    /// All up to this patron are.
    pub last_user: Option<Uuid>,
}

/// Notes how far an iteration is, and holds it. Tells whether it is to go on: it may have been cancelled, or
/// taken by another instance.
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
    let done = done.execute(db).await.map_err(Error::at("note how far an iteration is"))?;
    Ok(done.rows_affected() == 1)
}

/// An iteration ends, for whoever holds it: with an error, or because all is published.
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
    done.map(|_| ()).map_err(Error::at("end an iteration"))
}

/// Whether an iteration is still its holder's; until the transaction ends nobody can take it.
pub async fn is_lease_valid(tx: &mut Tx, id: Uuid, holder: Uuid) -> Result<bool, Error> {
    let ours: Option<Uuid> = sqlx::query_scalar(
        "select id from mod_patron_blocks.summary_export where id = $1 and lease_holder = $2 and ended_at is null
            for share",
    )
    .bind(id)
    .bind(holder)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::at("check the lease of an export"))?;
    Ok(ours.is_some())
}

/// Says that an iteration is worked on. Tells whether it is to go on.
pub async fn renew(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    lease: Duration,
) -> Result<bool, Error> {
    let set = "update mod_patron_blocks.summary_export set lease_expires_at = now() + $3 * interval '1 second'
                where id = $1 and lease_holder = $2 and ended_at is null";
    let set = sqlx::query(set).bind(id).bind(holder).bind(lease.as_secs_f64()).execute(db).await;
    Ok(set.map_err(Error::at("hold an iteration"))?.rows_affected() == 1)
}

/// Lets go of an iteration, which any instance may go on with after a pause.
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
    done.map(|_| ()).map_err(Error::at("release an export"))
}

/// Ends an iteration where it stands. Tells whether there was one that had not ended.
pub async fn cancel(db: impl PgExecutor<'_>, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.summary_export set status = 'cancelled', ended_at = now(), lease_expires_at = null
          where id = $1 and tenant = $2 and ended_at is null",
    );
    let done = done.bind(id).bind(tenant.as_str()).execute(db).await;
    Ok(done.map_err(Error::at("cancel an iteration"))?.rows_affected() == 1)
}

/// An iteration of the tenant.
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
    found.map_err(Error::at("find an iteration"))
}

/// A page of the tenant's iterations, the newest first, and how many there are.
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
    let found: Vec<Counted> = found.fetch_all(db).await.map_err(Error::at("list iterations"))?;
    let total = found.first().map_or(0, |counted| counted.total_records);
    Ok((found.into_iter().map(|counted| counted.export).collect(), total))
}

/// Forgets all iterations of a tenant, whose schema is gone.
pub async fn delete_all(tx: &mut Tx, tenant: &TenantId) -> Result<(), Error> {
    let gone = sqlx::query("delete from mod_patron_blocks.summary_export where tenant = $1");
    let gone = gone.bind(tenant.as_str()).execute(&mut **tx).await;
    gone.map(|_| ()).map_err(Error::at("forget iterations"))
}

/// How many patrons of this group, or of all, have anything open.
pub async fn count_summaries(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    group: Option<&str>,
) -> Result<i64, Error> {
    let count = sqlx::query_scalar(schema.sql(&COUNT_SUMMARIES)).bind(group);
    count.fetch_one(db).await.map_err(Error::at("count summaries"))
}

/// The next summaries after a patron's, as JSON text.
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

/// The summaries of these patrons; none of who has nothing open.
pub async fn summaries_of_patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    users: &[Uuid],
) -> Result<Vec<(Uuid, Option<String>)>, Error> {
    let these =
        sqlx::query_as(schema.sql(&SELECT_SUMMARIES_OF_PATRONS)).bind(users).fetch_all(db).await;
    these.map_err(Error::at("read summaries"))
}

/// Patrons of whom something has changed since then, in order. Goes through the whole inbox.
pub async fn list_changed_patrons(
    tx: &mut Tx,
    schema: &Schema,
    group: Option<&str>,
    time: DateTime<Utc>,
) -> Result<Vec<Uuid>, Error> {
    let failed = || Error::at("look who has changed");
    let longer = sqlx::query("select set_config('statement_timeout', '900000', true)");
    longer.execute(&mut **tx).await.map_err(failed())?;
    let changed = sqlx::query_scalar(schema.sql(&SELECT_CHANGED_PATRONS)).bind(group);
    changed.bind(time).fetch_all(&mut **tx).await.map_err(failed())
}
