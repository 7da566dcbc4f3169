//! Rebuilds as they are asked for, worked on and kept, and the differences that they find.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};
use crate::event::TenantId;

/// How long what has ended is kept.
const KEPT: TimeDelta = TimeDelta::days(90);

const COLUMNS: &str = "id, tenant, request, status, asked_by, asked_at, begun_at, ended_at, cancel,
    progress, summary, error";

const ADD_PATRONS: Statement = Statement::new(
    "insert into {schema}.rebuild_patron as p (rebuild_id, user_id, loans, fees_fines, counters)
     select $1, x.* from unnest($2::uuid[], $3::int4[], $4::int4[], $5::bool[]) as x
     on conflict (rebuild_id, user_id) do update set
       loans = p.loans + excluded.loans, fees_fines = p.fees_fines + excluded.fees_fines,
       counters = p.counters or excluded.counters",
);

const ADD_DIFFERENCES: Statement = Statement::new(
    "insert into {schema}.rebuild_difference (rebuild_id, subject, is_loan, user_id, kind, registers, here, there)
     select $1, x.subject, x.is_loan, x.user_id, x.kind, string_to_array(x.registers, ','), x.here, x.there
       from unnest($2::uuid[], $3::bool[], $4::uuid[], $5::text[], $6::text[], $7::jsonb[], $8::jsonb[])
         as x (subject, is_loan, user_id, kind, registers, here, there)
     on conflict do nothing",
);

const SET_BLOCKED: Statement = Statement::new(
    "update {schema}.rebuild_patron set blocked_before = $3, blocked_after = $4
      where rebuild_id = $1 and user_id = $2",
);

/// Those of whom most is different first.
const PATRONS: Statement = Statement::new(
    "select user_id, loans, fees_fines, counters, blocked_before, blocked_after, applied_at,
            count(*) over () as total
       from {schema}.rebuild_patron where rebuild_id = $1
      order by loans + fees_fines desc, user_id limit $2 offset $3",
);

const DIFFERENCES: Statement = Statement::new(
    "select subject, is_loan, user_id, kind, registers, here, there
       from {schema}.rebuild_difference where rebuild_id = $1 and user_id = any($2)
      order by user_id, subject",
);

const UNAPPLIED: Statement = Statement::new(
    "select user_id, loans + fees_fines as subjects from {schema}.rebuild_patron
      where rebuild_id = $1 and applied_at is null order by user_id limit $2",
);

const SET_APPLIED: Statement = Statement::new(
    "update {schema}.rebuild_patron set applied_at = $3 where rebuild_id = $1 and user_id = any($2)",
);

const SUMMARY: Statement = Statement::new(
    "select (select count(*) from {schema}.rebuild_patron where rebuild_id = $1) as patrons,
            (select count(*) from {schema}.rebuild_patron where rebuild_id = $1 and counters) as counters,
            (select count(*) from {schema}.rebuild_patron where rebuild_id = $1 and applied_at is not null) as applied,
            (select count(*) from {schema}.rebuild_patron where rebuild_id = $1
                and not blocked_before @> blocked_after) as blocked,
            (select count(*) from {schema}.rebuild_patron where rebuild_id = $1
                and not blocked_after @> blocked_before) as unblocked,
            (select coalesce(jsonb_object_agg(is_loan::text || '/' || kind, number), '{}') from (
               select is_loan, kind, count(*) as number from {schema}.rebuild_difference
                where rebuild_id = $1 group by is_loan, kind) kinds) as kinds",
);

const FORGET: [Statement; 2] = [
    Statement::new("delete from {schema}.rebuild_patron where rebuild_id = $1"),
    Statement::new("delete from {schema}.rebuild_difference where rebuild_id = $1"),
];

pub(super) const STATEMENTS: &[&Statement] = &[
    &ADD_PATRONS,
    &ADD_DIFFERENCES,
    &SET_BLOCKED,
    &PATRONS,
    &DIFFERENCES,
    &UNAPPLIED,
    &SET_APPLIED,
    &SUMMARY,
    &FORGET[0],
    &FORGET[1],
];

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nobody has begun.
    Waiting,
    /// The source is being read.
    Reading,
    /// What it says is being compared with what is known.
    Comparing,
    /// The differences are known; nothing is applied, and may be.
    Compared,
    /// What differs is being put right.
    Applying,
    /// All is put right.
    Done,
    /// It could not be done; nothing was changed that isn't right.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl Status {
    const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Reading,
        Self::Comparing,
        Self::Compared,
        Self::Applying,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];

    /// As stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Reading => "reading",
            Self::Comparing => "comparing",
            Self::Compared => "compared",
            Self::Applying => "applying",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will come of it.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl TryFrom<String> for Status {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|status| status.name() == name);
        known.ok_or_else(|| format!("{name} is no status of a rebuild"))
    }
}

/// A rebuild as stored.
#[derive(Debug, Clone, FromRow)]
pub struct Rebuild {
    /// Its id.
    pub id: Uuid,
    /// The tenant.
    #[sqlx(try_from = "String")]
    pub tenant: TenantId,
    /// What was asked for.
    pub request: Value,
    /// How far it is.
    #[sqlx(try_from = "String")]
    pub status: Status,
    /// Who asked.
    pub asked_by: String,
    /// When.
    pub asked_at: DateTime<Utc>,
    /// When an instance first worked on it.
    pub begun_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether it is to end where it stands.
    pub cancel: bool,
    /// How much is done of how much, as last told.
    pub progress: Value,
    /// What was found to be different.
    pub summary: Option<Value>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A patron of whom something is different.
#[derive(Debug, Clone, FromRow)]
pub struct Patron {
    /// Who.
    pub user_id: Uuid,
    /// How many loans differ.
    pub loans: i32,
    /// How many fees/fines.
    pub fees_fines: i32,
    /// Whether the counters differ from a recount.
    pub counters: bool,
    /// Conditions that block the patron as things are, where it could be told.
    pub blocked_before: Option<Vec<String>>,
    /// The same as things are to be.
    pub blocked_after: Option<Vec<String>>,
    /// When it was put right.
    pub applied_at: Option<DateTime<Utc>>,
    /// How many such patrons there are in all.
    pub total: i64,
}

/// A loan or fee/fine that is different.
#[derive(Debug, Clone, FromRow)]
pub struct Difference {
    /// The loan or fee/fine.
    pub subject: Uuid,
    /// Which of them it is.
    pub is_loan: bool,
    /// Whose it is to be, or was.
    pub user_id: Uuid,
    /// In which way.
    pub kind: String,
    /// In which registers.
    pub registers: Vec<String>,
    /// As it counts here.
    pub here: Option<Value>,
    /// As it is to count.
    pub there: Option<Value>,
}

/// How much was found to be different.
#[derive(Debug, Clone, FromRow, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Patrons of whom anything is different.
    pub patrons: i64,
    /// Of them, those whose counters are not what a recount gives.
    pub counters: i64,
    /// Of them, those who were put right.
    pub applied: i64,
    /// Patrons on whom a block is to be imposed.
    pub blocked: i64,
    /// Patrons of whom a block is to be lifted.
    pub unblocked: i64,
    /// Loans (`true/…`) and fees/fines by the way in which they differ.
    #[serde(skip)]
    pub kinds: Value,
}

/// Enters a rebuild for any instance to work on. Old ones that have ended go.
pub async fn add(
    db: impl PgExecutor<'_>,
    id: Uuid,
    tenant: &TenantId,
    request: &Value,
    asked_by: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query(
        "with old as (delete from mod_patron_blocks.rebuild where ended_at < $6)
         insert into mod_patron_blocks.rebuild (id, tenant, request, status, asked_by, asked_at)
         values ($1, $2, $3, 'waiting', $4, $5)",
    )
    .bind(id)
    .bind(tenant.as_str())
    .bind(request)
    .bind(asked_by)
    .bind(now)
    .bind(now - KEPT)
    .execute(db)
    .await
    .map_err(Error::at("enter a rebuild"))?;
    Ok(())
}

/// Takes a rebuild that nobody works on, the oldest first; each goes to one who asks.
pub async fn take(
    db: impl PgExecutor<'_>,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<Rebuild>, Error> {
    take_any(db, None, now, until).await
}

/// As [`take`], this one alone.
pub async fn take_one(
    db: impl PgExecutor<'_>,
    id: Uuid,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<Rebuild>, Error> {
    take_any(db, Some(id), now, until).await
}

async fn take_any(
    db: impl PgExecutor<'_>,
    id: Option<Uuid>,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<Rebuild>, Error> {
    let sql = format!(
        "update mod_patron_blocks.rebuild set held_until = $2, begun_at = coalesce(begun_at, $1)
          where id = (select id from mod_patron_blocks.rebuild
                       where status in ('waiting', 'reading', 'comparing', 'applying')
                         and (held_until is null or held_until < $1) and ($3::uuid is null or id = $3)
                       order by asked_at limit 1 for update skip locked)
         returning {COLUMNS}"
    );
    let taken = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(now).bind(until).bind(id);
    taken.fetch_optional(db).await.map_err(Error::at("take a rebuild"))
}

/// Says that a rebuild is still worked on, and how far it is. Gives the rebuild as it stands, unless it is
/// gone or another instance has it.
pub async fn hold(
    db: impl PgExecutor<'_>,
    id: Uuid,
    until: DateTime<Utc>,
    progress: &Value,
) -> Result<Option<Rebuild>, Error> {
    let sql = format!(
        "update mod_patron_blocks.rebuild set held_until = $2, progress = $3 where id = $1
         returning {COLUMNS}"
    );
    let held = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id).bind(until).bind(progress);
    held.fetch_optional(db).await.map_err(Error::at("hold a rebuild"))
}

/// Sets how far a rebuild is; what has ended is held by nobody.
pub async fn set_status(
    db: impl PgExecutor<'_>,
    id: Uuid,
    status: Status,
    summary: Option<&Value>,
    error: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.rebuild set status = $2, summary = coalesce($3, summary), error = $4,
                ended_at = case when $5 then $6 end,
                held_until = case when $5 or $2 in ('compared', 'waiting') then null else held_until end
          where id = $1",
    )
    .bind(id)
    .bind(status.name())
    .bind(summary)
    .bind(error)
    .bind(status.has_ended())
    .bind(now)
    .execute(db)
    .await
    .map_err(Error::at("set a rebuild's status"))?;
    Ok(())
}

/// Has a rebuild whose differences are known applied. Tells whether that is so.
pub async fn apply(db: impl PgExecutor<'_>, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.rebuild set status = 'applying', held_until = null
          where id = $1 and tenant = $2 and status = 'compared'",
    );
    let done = done.bind(id).bind(tenant.as_str()).execute(db).await;
    Ok(done.map_err(Error::at("have a rebuild applied"))?.rows_affected() == 1)
}

/// Has a rebuild end where it stands. Tells whether there was one that hadn't ended.
pub async fn cancel(db: impl PgExecutor<'_>, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.rebuild
            set cancel = true, status = case when status = 'compared' then 'applying' else status end
          where id = $1 and tenant = $2 and ended_at is null",
    );
    let done = done.bind(id).bind(tenant.as_str()).execute(db).await;
    Ok(done.map_err(Error::at("cancel a rebuild"))?.rows_affected() == 1)
}

/// A rebuild of the tenant.
pub async fn find(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    id: Uuid,
) -> Result<Option<Rebuild>, Error> {
    let sql =
        format!("select {COLUMNS} from mod_patron_blocks.rebuild where id = $1 and tenant = $2");
    let found = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id).bind(tenant.as_str());
    found.fetch_optional(db).await.map_err(Error::at("find a rebuild"))
}

/// A page of the tenant's rebuilds, the newest first, and how many there are.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    limit: i64,
    offset: i64,
) -> Result<(Vec<Rebuild>, i64), Error> {
    #[derive(FromRow)]
    struct Counted {
        #[sqlx(flatten)]
        rebuild: Rebuild,
        total: i64,
    }
    let sql = format!(
        "select {COLUMNS}, count(*) over () as total from mod_patron_blocks.rebuild
          where tenant = $1 order by asked_at desc, id limit $2 offset $3"
    );
    let found = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str());
    let found: Vec<Counted> =
        found.bind(limit).bind(offset).fetch_all(db).await.map_err(Error::at("list rebuilds"))?;
    let total = found.first().map_or(0, |counted| counted.total);
    Ok((found.into_iter().map(|counted| counted.rebuild).collect(), total))
}

/// Forgets all rebuilds of a tenant, whose schema is gone. Gives their ids.
pub async fn forget_all(tx: &mut Tx, tenant: &TenantId) -> Result<Vec<Uuid>, Error> {
    let gone =
        sqlx::query_scalar("delete from mod_patron_blocks.rebuild where tenant = $1 returning id");
    gone.bind(tenant.as_str()).fetch_all(&mut **tx).await.map_err(Error::at("forget rebuilds"))
}

/// Enters differences, and counts them for their patrons.
pub async fn add_differences(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    found: &[Difference],
) -> Result<(), Error> {
    if found.is_empty() {
        return Ok(());
    }
    let mut c = Columns::default();
    found.iter().for_each(|difference| c.push(difference));
    sqlx::query(schema.sql(&ADD_DIFFERENCES))
        .bind(id)
        .bind(c.subject)
        .bind(c.is_loan)
        .bind(c.user_id)
        .bind(c.kind)
        .bind(c.registers)
        .bind(c.here)
        .bind(c.there)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("enter differences"))?;
    let (users, loans, fees) = by_patron(found);
    add_patrons(tx, schema, id, &users, (&loans, &fees), false).await
}

#[derive(Default)]
struct Columns<'a> {
    subject: Vec<Uuid>,
    is_loan: Vec<bool>,
    user_id: Vec<Uuid>,
    kind: Vec<&'a str>,
    registers: Vec<String>,
    here: Vec<Option<&'a Value>>,
    there: Vec<Option<&'a Value>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, difference: &'a Difference) {
        self.subject.push(difference.subject);
        self.is_loan.push(difference.is_loan);
        self.user_id.push(difference.user_id);
        self.kind.push(&difference.kind);
        self.registers.push(difference.registers.join(","));
        self.here.push(difference.here.as_ref());
        self.there.push(difference.there.as_ref());
    }
}

/// Patrons, with how many of their loans and of their fees/fines differ.
fn by_patron(found: &[Difference]) -> (Vec<Uuid>, Vec<i32>, Vec<i32>) {
    let mut numbers: BTreeMap<Uuid, (i32, i32)> = BTreeMap::new();
    for difference in found {
        let (loans, fees) = numbers.entry(difference.user_id).or_default();
        *(if difference.is_loan { loans } else { fees }) += 1;
    }
    let (loans, fees) = numbers.values().copied().unzip();
    (numbers.into_keys().collect(), loans, fees)
}

/// Enters patrons of whom so many loans and fees/fines differ.
pub async fn add_patrons(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
    (loans, fees): (&[i32], &[i32]),
    counters: bool,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&ADD_PATRONS))
        .bind(id)
        .bind(users)
        .bind(loans)
        .bind(fees)
        .bind(vec![counters; users.len()])
        .execute(&mut **tx)
        .await
        .map_err(Error::at("enter patrons who differ"))?;
    Ok(())
}

/// Enters which conditions block a patron, and are to.
pub async fn set_blocked(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    user: Uuid,
    (before, after): (&[String], &[String]),
) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_BLOCKED)).bind(id).bind(user).bind(before).bind(after);
    set.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("enter a patron's blocks"))
}

/// A page of the patrons of whom something differs, those of whom most does first.
pub async fn patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    limit: i64,
    offset: i64,
) -> Result<Vec<Patron>, Error> {
    let found = sqlx::query_as(schema.sql(&PATRONS)).bind(id).bind(limit).bind(offset);
    found.fetch_all(db).await.map_err(Error::at("list patrons who differ"))
}

/// What differs of these patrons.
pub async fn differences(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
) -> Result<Vec<Difference>, Error> {
    let found = sqlx::query_as(schema.sql(&DIFFERENCES)).bind(id).bind(users).fetch_all(db).await;
    found.map_err(Error::at("list differences"))
}

/// Patrons who are not put right yet, with how much of them differs.
pub async fn unapplied(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, i32)>, Error> {
    let found = sqlx::query_as(schema.sql(&UNAPPLIED)).bind(id).bind(most);
    found.fetch_all(&mut **tx).await.map_err(Error::at("list patrons to put right"))
}

/// Notes that patrons are put right.
pub async fn set_applied(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_APPLIED)).bind(id).bind(users).bind(now);
    set.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("note who is put right"))
}

/// Sums up what was found.
pub async fn summary(db: impl PgExecutor<'_>, schema: &Schema, id: Uuid) -> Result<Summary, Error> {
    let summed = sqlx::query_as(schema.sql(&SUMMARY)).bind(id).fetch_one(db).await;
    summed.map_err(Error::at("sum up differences"))
}

/// Forgets what was found.
pub async fn forget(tx: &mut Tx, schema: &Schema, id: Uuid) -> Result<(), Error> {
    for statement in &FORGET {
        let gone = sqlx::query(schema.sql(statement)).bind(id).execute(&mut **tx).await;
        gone.map_err(Error::at("forget differences"))?;
    }
    Ok(())
}
