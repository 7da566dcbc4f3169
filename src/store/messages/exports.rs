//! Summary exports as stored, and the summaries that an export publishes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    event::TenantId,
    store::{
        Error, Schema, Statement, Tx,
        jobs::{self, Job, JobKind, Lease, NewJob, claims},
    },
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

/// A summary export as stored.
#[derive(Debug, Clone)]
pub struct SummaryExport {
    /// The job of the export; every event of the export contains its id.
    pub job: Job,
    /// The request.
    pub request: ExportRequest,
    /// The progress.
    pub progress: ExportProgress,
}

/// The request for a summary export.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportRequest {
    /// The full name of the topic.
    pub topic: String,
    /// The type of the published events.
    pub event_type: String,
    /// The patron group to which the export is limited.
    pub patron_group: Option<String>,
    /// The time since when a patron must have changed to be exported.
    pub changed_since: Option<DateTime<Utc>>,
}

/// The progress of an export, as the lease holder reports it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportProgress {
    /// The number of summaries to publish, once known.
    pub total: Option<i64>,
    /// The number of acknowledged summaries.
    pub published: i64,
    /// The last patron in id order up to whom every summary is acknowledged.
    pub last_user: Option<Uuid>,
}

impl SummaryExport {
    fn from_job(job: Job) -> Result<Self, Error> {
        let (request, progress) = (job.decode(&job.request)?, job.decode(&job.progress)?);
        Ok(Self { job, request, progress })
    }
}

/// Inserts an export that any instance may claim.
pub async fn insert(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    request: &ExportRequest,
    requested_by: &str,
) -> Result<SummaryExport, Error> {
    let (kind, body) = (JobKind::SummaryExport, json!(request));
    let job =
        NewJob { kind, tenant, request: &body, requested_by, read_group: None, started: None };
    SummaryExport::from_job(jobs::insert(db, Uuid::new_v4(), job).await?)
}

/// Claims the next export without a valid lease.
pub async fn claim(db: impl PgExecutor<'_>, lease: Lease) -> Result<Option<SummaryExport>, Error> {
    let job = claims::claim_summary_export(db, lease).await?;
    job.map(SummaryExport::from_job).transpose()
}

/// Releases the lease of an export. Any instance may claim the export after `retry_delay`.
pub async fn release(
    db: impl PgExecutor<'_>,
    id: Uuid,
    lease: Lease,
    retry_delay: Duration,
) -> Result<(), Error> {
    let set = "update mod_patron_blocks.job
                  set lease_expires_at = now() + $3 * interval '1 second', lease_holder = null
                where id = $1 and lease_holder = $2 and ended_at is null";
    let set = sqlx::query(set).bind(id).bind(lease.holder).bind(retry_delay.as_secs_f64());
    set.execute(db).await.map(|_| ()).map_err(Error::at("release a summary export"))
}

/// Cancels an export. Returns `false` if the export does not exist or has already ended.
pub async fn cancel(db: impl PgExecutor<'_>, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.job set status = 'cancelled', ended_at = now(), lease_expires_at = null
          where id = $1 and tenant = $2 and kind = 'summary_export' and ended_at is null",
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
    let job = jobs::find(db, JobKind::SummaryExport, tenant, id).await?;
    job.map(SummaryExport::from_job).transpose()
}

/// Returns a page of the tenant's exports, the newest first, and the number of all exports.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    limit: i64,
    offset: i64,
) -> Result<(Vec<SummaryExport>, i64), Error> {
    let (page, total) = jobs::list(db, JobKind::SummaryExport, tenant, limit, offset).await?;
    let page: Result<_, _> = page.into_iter().map(SummaryExport::from_job).collect();
    Ok((page?, total))
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
