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
           select from {schema}.patron p where p.user_id = s.user_id and lower($1) =
             lower(case when p.told_at is not null and ($2 or p.known_at is null or p.told_at >= p.known_at)
                        then p.told_group else p.patron_group end)))"
    };
}

const COUNT: Statement = Statement::new(concat!(
    "select count(*) from {schema}.patron_counter s
      where (s.open_loans > 0 or s.open_fees_fines > 0) and ",
    of_group!()
));

const PAGE: Statement = Statement::new(concat!(
    "select s.user_id, s.jsonb::text from {schema}.user_summary s where s.user_id > $3 and ",
    of_group!(),
    " order by s.user_id limit $4"
));

/// Of these patrons, whether they have anything open or not.
const THESE: Statement = Statement::new(
    "select s.user_id, u.jsonb::text from unnest($1::uuid[]) as s (user_id)
       left join {schema}.user_summary u on u.user_id = s.user_id order by s.user_id",
);

/// By what the inbox was told since, and by what rebuilds have put right. That all loans were deleted is said of
/// nobody, and concerns all.
const CHANGED: Statement = Statement::new(concat!(
    "select s.user_id from (
       select coalesce(l.user_id, f.user_id, i.user_id) as user_id
         from {schema}.inbox i
         left join {schema}.loan l on l.loan_id = i.subject
         left join {schema}.fee_fine f on f.fee_fine_id = i.subject
        where i.received_at >= $3
       union
       select i.user_id from {schema}.inbox i where i.received_at >= $3
       union
       select user_id from {schema}.rebuild_patron where applied_at >= $3
       union
       select c.user_id from {schema}.patron_counter c
        where exists (select from {schema}.inbox i where i.received_at >= $3
                         and i.subject = '00000000-0000-0000-0000-000000000000')) s
      where s.user_id is not null and ",
    of_group!(),
    " order by 1"
));

pub(super) const STATEMENTS: &[&Statement] = &[&COUNT, &PAGE, &THESE, &CHANGED];

macro_rules! columns {
    () => {
        "id, tenant, topic, event_type, patron_group, changed_since, status, asked_by, asked_at, begun_at,
         ended_at, total, published, last_user, error"
    };
}

/// An iteration as stored.
#[derive(Debug, Clone, FromRow)]
pub struct Iteration {
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
    pub asked_by: String,
    /// When.
    pub asked_at: DateTime<Utc>,
    /// When an instance first worked on it.
    pub begun_at: Option<DateTime<Utc>>,
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
pub struct Request<'a> {
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
    pub by: &'a str,
}

/// How many days an iteration that has ended is kept.
const KEPT_DAYS: i32 = 90;

/// Enters an iteration for any instance to work on. Old ones that have ended go.
pub async fn add(
    db: impl PgExecutor<'_>,
    id: Uuid,
    asked: Request<'_>,
    now: DateTime<Utc>,
) -> Result<Iteration, Error> {
    const ADD: &str = concat!(
        "with old as (delete from mod_patron_blocks.iteration where ended_at < now() - make_interval(days => $9))
         insert into mod_patron_blocks.iteration
           (id, tenant, topic, event_type, patron_group, changed_since, asked_by, asked_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8) returning ",
        columns!()
    );
    sqlx::query_as(ADD)
        .bind(id)
        .bind(asked.tenant.as_str())
        .bind(asked.topic)
        .bind(asked.event_type)
        .bind(asked.patron_group)
        .bind(asked.changed_since)
        .bind(asked.by)
        .bind(now)
        .bind(KEPT_DAYS)
        .fetch_one(db)
        .await
        .map_err(Error::at("enter an iteration"))
}

/// Takes the oldest iteration that nobody works on, those that had to be let be last of all.
pub async fn take(
    db: impl PgExecutor<'_>,
    holder: Uuid,
    held: Duration,
) -> Result<Option<Iteration>, Error> {
    const TAKE: &str = concat!(
        "update mod_patron_blocks.iteration
            set status = 'publishing', holder = $1, held_until = now() + $2 * interval '1 second',
                begun_at = coalesce(begun_at, now())
          where id = (select id from mod_patron_blocks.iteration
                       where ended_at is null and (held_until is null or held_until < now())
                       order by coalesce(held_until, asked_at) limit 1 for update skip locked)
         returning ",
        columns!()
    );
    let taken = sqlx::query_as(TAKE).bind(holder).bind(held.as_secs_f64()).fetch_optional(db).await;
    taken.map_err(Error::at("take an iteration"))
}

/// How far an iteration is for whoever holds it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reached {
    /// How many there are in all, once that is known.
    pub total: Option<i64>,
    /// How many are acknowledged.
    pub published: i64,
    /// All up to this patron are.
    pub last_user: Option<Uuid>,
}

/// Notes how far an iteration is, and holds it. Tells whether it is to go on: it may have been cancelled, or
/// taken by another instance.
pub async fn reach(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    held: Duration,
    reached: Reached,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.iteration
            set held_until = now() + $3 * interval '1 second', total = coalesce($4, total),
                published = $5, last_user = coalesce($6, last_user)
          where id = $1 and holder = $2 and ended_at is null",
    );
    let done = done.bind(id).bind(holder).bind(held.as_secs_f64());
    let done = done.bind(reached.total).bind(reached.published).bind(reached.last_user);
    let done = done.execute(db).await.map_err(Error::at("note how far an iteration is"))?;
    Ok(done.rows_affected() == 1)
}

/// An iteration ends, for whoever holds it: with an error, or because all is published.
pub async fn end(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    error: Option<&str>,
) -> Result<(), Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.iteration
            set status = case when $3::text is null then 'done' else 'failed' end, error = $3,
                ended_at = now(), held_until = null
          where id = $1 and holder = $2 and ended_at is null",
    );
    let done = done.bind(id).bind(holder).bind(error).execute(db).await;
    done.map(|_| ()).map_err(Error::at("end an iteration"))
}

/// Says that an iteration is worked on. Tells whether it is to go on.
pub async fn hold(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    held: Duration,
) -> Result<bool, Error> {
    let set = "update mod_patron_blocks.iteration set held_until = now() + $3 * interval '1 second'
                where id = $1 and holder = $2 and ended_at is null";
    let set = sqlx::query(set).bind(id).bind(holder).bind(held.as_secs_f64()).execute(db).await;
    Ok(set.map_err(Error::at("hold an iteration"))?.rows_affected() == 1)
}

/// Lets go of an iteration, which any instance may go on with after a pause.
pub async fn let_go(
    db: impl PgExecutor<'_>,
    id: Uuid,
    holder: Uuid,
    pause: Duration,
) -> Result<(), Error> {
    let set = "update mod_patron_blocks.iteration
                  set held_until = now() + $3 * interval '1 second', holder = null
                where id = $1 and holder = $2 and ended_at is null";
    let done = sqlx::query(set).bind(id).bind(holder).bind(pause.as_secs_f64()).execute(db).await;
    done.map(|_| ()).map_err(Error::at("let go of an iteration"))
}

/// Ends an iteration where it stands. Tells whether there was one that had not ended.
pub async fn cancel(db: impl PgExecutor<'_>, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.iteration set status = 'cancelled', ended_at = now(), held_until = null
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
) -> Result<Option<Iteration>, Error> {
    const FIND: &str = concat!(
        "select ",
        columns!(),
        " from mod_patron_blocks.iteration where id = $1 and tenant = $2"
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
) -> Result<(Vec<Iteration>, i64), Error> {
    #[derive(FromRow)]
    struct Counted {
        #[sqlx(flatten)]
        iteration: Iteration,
        total_records: i64,
    }
    const LIST: &str = concat!(
        "select ",
        columns!(),
        ", count(*) over () as total_records from mod_patron_blocks.iteration
          where tenant = $1 order by asked_at desc, id limit $2 offset $3"
    );
    let found = sqlx::query_as(LIST).bind(tenant.as_str()).bind(limit).bind(offset);
    let found: Vec<Counted> = found.fetch_all(db).await.map_err(Error::at("list iterations"))?;
    let total = found.first().map_or(0, |counted| counted.total_records);
    Ok((found.into_iter().map(|counted| counted.iteration).collect(), total))
}

/// Forgets all iterations of a tenant, whose schema is gone.
pub async fn forget_all(tx: &mut Tx, tenant: &TenantId) -> Result<(), Error> {
    let gone = sqlx::query("delete from mod_patron_blocks.iteration where tenant = $1");
    let gone = gone.bind(tenant.as_str()).execute(&mut **tx).await;
    gone.map(|_| ()).map_err(Error::at("forget iterations"))
}

/// Whose summaries are published.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// Patrons of this group, or all.
    pub group: Option<&'a str>,
    /// Whether what the topic told of groups counts before all else.
    pub by_topic: bool,
}

/// How many patrons have anything open.
pub async fn count(db: impl PgExecutor<'_>, schema: &Schema, of: Whose<'_>) -> Result<i64, Error> {
    let count = sqlx::query_scalar(schema.sql(&COUNT)).bind(of.group).bind(of.by_topic);
    count.fetch_one(db).await.map_err(Error::at("count summaries"))
}

/// The next summaries after a patron's, as JSON text.
pub async fn page(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    of: Whose<'_>,
    after: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, Option<String>)>, Error> {
    let page = sqlx::query_as(schema.sql(&PAGE)).bind(of.group).bind(of.by_topic);
    let page = page.bind(after).bind(most).fetch_all(db).await;
    page.map_err(Error::at("read summaries"))
}

/// The summaries of these patrons; none of who has nothing open.
pub async fn these(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    users: &[Uuid],
) -> Result<Vec<(Uuid, Option<String>)>, Error> {
    let these = sqlx::query_as(schema.sql(&THESE)).bind(users).fetch_all(db).await;
    these.map_err(Error::at("read summaries"))
}

/// Patrons of whom something has changed since then, in order. Goes through the whole inbox.
pub async fn changed_since(
    tx: &mut Tx,
    schema: &Schema,
    of: Whose<'_>,
    time: DateTime<Utc>,
) -> Result<Vec<Uuid>, Error> {
    let failed = || Error::at("look who has changed");
    let longer = sqlx::query("select set_config('statement_timeout', '900000', true)");
    longer.execute(&mut **tx).await.map_err(failed())?;
    let changed = sqlx::query_scalar(schema.sql(&CHANGED)).bind(of.group).bind(of.by_topic);
    changed.bind(time).fetch_all(&mut **tx).await.map_err(failed())
}
