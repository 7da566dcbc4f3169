//! What rebuilds find to be different, in tables of the tenant.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};

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

const SET_STANDINGS: Statement = Statement::new(
    "update {schema}.rebuild_patron p
        set blocked_before = string_to_array(x.before, ','), blocked_after = string_to_array(x.after, ','),
            loans_here = x.here, loans_there = x.there
       from unnest($2::uuid[], $3::text[], $4::text[], $5::int4[], $6::int4[])
         as x (user_id, before, after, here, there)
      where p.rebuild_id = $1 and p.user_id = x.user_id",
);

/// Those of whom most is different first, and none of whom only that differs which doesn't count.
const PATRONS: Statement = Statement::new(
    "select user_id, loans, fees_fines, counters, loans_here, loans_there, blocked_before, blocked_after, applied_at
       from {schema}.rebuild_patron where rebuild_id = $1
      order by loans + fees_fines desc, user_id limit $2 offset $3",
);

/// Differences that a page of patrons has at most, and those of one patron.
const PAGE_MOST: usize = 20_000;
const PATRON_MOST: usize = 1000;

/// Of one patron at most so many, those that count first.
const DIFFERENCES: Statement = Statement::new(
    "select subject, is_loan, user_id, kind, registers, here, there from (
       select *, row_number() over (partition by user_id order by kind = 'hidden', subject) as n
         from {schema}.rebuild_difference where rebuild_id = $1 and user_id = any($2)) of_patrons
      where n <= $3 order by user_id, n",
);

const COUNTING: Statement = Statement::new(
    "select subject, is_loan from {schema}.rebuild_difference
      where rebuild_id = $1 and user_id = any($2) and kind <> 'hidden' order by subject",
);

const HIDDEN: Statement = Statement::new(
    "select subject, is_loan from {schema}.rebuild_difference
      where rebuild_id = $1 and kind = 'hidden' and not applied order by subject limit $2",
);

const SET_HIDDEN_APPLIED: Statement = Statement::new(
    "update {schema}.rebuild_difference set applied = true
      where rebuild_id = $1 and kind = 'hidden' and subject = any($2)",
);

const REPLACED: Statement = Statement::new(
    "delete from {schema}.rebuild_difference where rebuild_id = $1 and subject = any($2)",
);

/// What ended jobs have left that the module knows no more.
const FORGET_LOST: [Statement; 2] = [
    Statement::new(
        "delete from {schema}.rebuild_patron
          where rebuild_id not in (select id from mod_patron_blocks.rebuild)",
    ),
    Statement::new(
        "delete from {schema}.rebuild_difference
          where rebuild_id not in (select id from mod_patron_blocks.rebuild)",
    ),
];

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
    &SET_STANDINGS,
    &PATRONS,
    &DIFFERENCES,
    &COUNTING,
    &HIDDEN,
    &SET_HIDDEN_APPLIED,
    &REPLACED,
    &FORGET_LOST[0],
    &FORGET_LOST[1],
    &UNAPPLIED,
    &SET_APPLIED,
    &SUMMARY,
    &FORGET[0],
    &FORGET[1],
];

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
    /// Open loans as things are.
    pub loans_here: Option<i32>,
    /// Open loans as things are to be.
    pub loans_there: Option<i32>,
    /// Conditions that block the patron as things are, where it could be told.
    pub blocked_before: Option<Vec<String>>,
    /// The same as things are to be.
    pub blocked_after: Option<Vec<String>>,
    /// When it was put right.
    pub applied_at: Option<DateTime<Utc>>,
}

/// A loan or fee/fine that is different.
#[derive(Debug, Clone, FromRow)]
pub struct Difference {
    /// The loan or fee/fine.
    pub subject: Uuid,
    /// Which of them it is.
    pub is_loan: bool,
    /// The patron to be, or the one before; `None` where nobody is named, and then it does not count.
    pub user_id: Option<Uuid>,
    /// In which way.
    pub kind: String,
    /// In which registers.
    pub registers: Vec<String>,
    /// As it counts here.
    pub here: Option<Value>,
    /// As it is to count.
    pub there: Option<Value>,
}

/// The kind of what is open here, and is not to be.
pub const ONLY_HERE_KIND: &str = "only_here";

/// The kind of what differs in nothing that counts.
pub const HIDDEN_KIND: &str = "hidden";

impl Difference {
    /// Whether it differs in something that counts.
    pub fn counts(&self) -> bool {
        self.kind != HIDDEN_KIND
    }
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

impl Summary {
    /// How many loans, or fees/fines, differ in this way.
    pub fn number(&self, is_loan: bool, kind: &str) -> i64 {
        let number = self.kinds.get(format!("{is_loan}/{kind}"));
        number.and_then(Value::as_i64).unwrap_or_default()
    }
}

/// Enters differences, and counts them for their patrons.
pub async fn add(
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
    user_id: Vec<Option<Uuid>>,
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

/// Patrons, with how many of their loans and of their fees/fines differ in what counts.
fn by_patron(found: &[Difference]) -> (Vec<Uuid>, Vec<i32>, Vec<i32>) {
    let mut numbers: BTreeMap<Uuid, (i32, i32)> = BTreeMap::new();
    for difference in found.iter().filter(|difference| difference.counts()) {
        let Some(user) = difference.user_id else { continue };
        let (loans, fees) = numbers.entry(user).or_default();
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

/// How a patron stands: how many loans are open, and which conditions block, where that could be told.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Open loans.
    pub loans: usize,
    /// Ids of conditions.
    pub blocked: Option<Vec<String>>,
}

/// Enters how patrons stand, and are to.
pub async fn set_standings(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    of: &[(Uuid, Standing, Standing)],
) -> Result<(), Error> {
    let number = |standing: &Standing| i32::try_from(standing.loans).unwrap_or(i32::MAX);
    let blocked = |standing: &Standing| standing.blocked.as_ref().map(|ids| ids.join(","));
    sqlx::query(schema.sql(&SET_STANDINGS))
        .bind(id)
        .bind(of.iter().map(|(user, ..)| *user).collect::<Vec<_>>())
        .bind(of.iter().map(|(_, here, _)| blocked(here)).collect::<Vec<_>>())
        .bind(of.iter().map(|(.., there)| blocked(there)).collect::<Vec<_>>())
        .bind(of.iter().map(|(_, here, _)| number(here)).collect::<Vec<_>>())
        .bind(of.iter().map(|(.., there)| number(there)).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("enter how patrons stand"))?;
    Ok(())
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

/// What differs of these patrons; of each as many as a page has room for.
pub async fn of_patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
) -> Result<Vec<Difference>, Error> {
    // Fewer of each where many are asked for: so a page is bounded, and each patron has a part of it.
    let each = (PAGE_MOST / users.len().max(1)).clamp(1, PATRON_MOST);
    let each = i64::try_from(each).unwrap_or(i64::MAX);
    let found = sqlx::query_as(schema.sql(&DIFFERENCES)).bind(id).bind(users).bind(each);
    let found = found.fetch_all(db).await;
    found.map_err(Error::at("list differences"))
}

/// Loans and fees/fines of these patrons that differ in what counts: which are loans.
pub async fn counting(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
) -> Result<Vec<(Uuid, bool)>, Error> {
    let found = sqlx::query_as(schema.sql(&COUNTING)).bind(id).bind(users);
    found.fetch_all(&mut **tx).await.map_err(Error::at("list what differs and counts"))
}

/// So many of those that differ in nothing that counts and are not put right yet: which are loans.
pub async fn hidden(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, bool)>, Error> {
    let found = sqlx::query_as(schema.sql(&HIDDEN)).bind(id).bind(most);
    found.fetch_all(&mut **tx).await.map_err(Error::at("list what differs and doesn't count"))
}

/// Notes that these are put right, which differ in nothing that counts.
pub async fn set_hidden_applied(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    subjects: &[Uuid],
) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_HIDDEN_APPLIED)).bind(id).bind(subjects);
    set.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("note what is put right"))
}

/// Forgets what rebuilds have found that are not known any more.
pub async fn forget_lost(tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
    for statement in &FORGET_LOST {
        let gone = sqlx::query(schema.sql(statement)).execute(&mut **tx).await;
        gone.map_err(Error::at("forget differences"))?;
    }
    Ok(())
}

/// Enters differences in place of what was found of the same loans and fees/fines.
pub async fn replace(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    found: &[Difference],
) -> Result<(), Error> {
    let subjects: Vec<Uuid> = found.iter().map(|difference| difference.subject).collect();
    let gone = sqlx::query(schema.sql(&REPLACED)).bind(id).bind(subjects).execute(&mut **tx).await;
    gone.map_err(Error::at("replace differences"))?;
    add(tx, schema, id, found).await
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
