//! What rebuilds find to be different, in tables of the tenant.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};

const INSERT_PATRONS: Statement = Statement::new(
    "insert into {schema}.rebuild_patron as p (rebuild_id, user_id, loans, fees_fines, counters)
     select $1, x.* from unnest($2::uuid[], $3::int4[], $4::int4[], $5::bool[]) as x
     on conflict (rebuild_id, user_id) do update set
       loans = p.loans + excluded.loans, fees_fines = p.fees_fines + excluded.fees_fines,
       counters = p.counters or excluded.counters",
);

const INSERT_DIFFERENCES: Statement = Statement::new(
    "insert into {schema}.rebuild_difference (rebuild_id, subject, is_loan, user_id, kind, registers,
                                              current_state, target_state)
     select $1, x.subject, x.is_loan, x.user_id, x.kind, string_to_array(x.registers, ','),
            x.current_state, x.target_state
       from unnest($2::uuid[], $3::bool[], $4::uuid[], $5::text[], $6::text[], $7::jsonb[], $8::jsonb[])
         as x (subject, is_loan, user_id, kind, registers, current_state, target_state)
     on conflict do nothing",
);

const SET_BLOCK_SUMMARIES: Statement = Statement::new(
    "update {schema}.rebuild_patron p
        set blocked_before = string_to_array(x.before, ','), blocked_after = string_to_array(x.after, ','),
            current_loans = x.current_loans, target_loans = x.target_loans
       from unnest($2::uuid[], $3::text[], $4::text[], $5::int4[], $6::int4[])
         as x (user_id, before, after, current_loans, target_loans)
      where p.rebuild_id = $1 and p.user_id = x.user_id",
);

/// Those of whom most is different first, and none of whom only that differs which doesn't count.
const SELECT_PATRONS: Statement = Statement::new(
    "select user_id, loans, fees_fines, counters, current_loans, target_loans, blocked_before, blocked_after, applied_at
       from {schema}.rebuild_patron where rebuild_id = $1
      order by loans + fees_fines desc, user_id limit $2 offset $3",
);

/// Differences that a page of patrons has at most, and those of one patron.
const PAGE_DIFFERENCES_MAX: usize = 20_000;
const PATRON_DIFFERENCES_MAX: usize = 1000;

/// Of one patron at most so many, those that count first.
const SELECT_DIFFERENCES: Statement = Statement::new(
    "select subject, is_loan, user_id, kind, registers, current_state, target_state from (
       select *, row_number() over (partition by user_id order by kind = 'insignificant', subject) as n
         from {schema}.rebuild_difference where rebuild_id = $1 and user_id = any($2)) of_patrons
      where n <= $3 order by user_id, n",
);

const SELECT_SIGNIFICANT: Statement = Statement::new(
    "select subject, is_loan from {schema}.rebuild_difference
      where rebuild_id = $1 and user_id = any($2) and kind <> 'insignificant' order by subject",
);

const SELECT_INSIGNIFICANT: Statement = Statement::new(
    "select subject, is_loan from {schema}.rebuild_difference
      where rebuild_id = $1 and kind = 'insignificant' and not applied order by subject limit $2",
);

const SET_INSIGNIFICANT_APPLIED: Statement = Statement::new(
    "update {schema}.rebuild_difference set applied = true
      where rebuild_id = $1 and kind = 'insignificant' and subject = any($2)",
);

const DELETE_REPLACED: Statement = Statement::new(
    "delete from {schema}.rebuild_difference where rebuild_id = $1 and subject = any($2)",
);

/// What ended jobs have left that the module knows no more.
const DELETE_ORPHANS: [Statement; 2] = [
    Statement::new(
        "delete from {schema}.rebuild_patron
          where rebuild_id not in (select id from mod_patron_blocks.rebuild)",
    ),
    Statement::new(
        "delete from {schema}.rebuild_difference
          where rebuild_id not in (select id from mod_patron_blocks.rebuild)",
    ),
];

const SELECT_UNAPPLIED: Statement = Statement::new(
    "select user_id, loans + fees_fines as subjects from {schema}.rebuild_patron
      where rebuild_id = $1 and applied_at is null order by user_id limit $2",
);

const SET_APPLIED: Statement = Statement::new(
    "update {schema}.rebuild_patron set applied_at = $3 where rebuild_id = $1 and user_id = any($2)",
);

const SELECT_SUMMARY: Statement = Statement::new(
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

const DELETE: [Statement; 2] = [
    Statement::new("delete from {schema}.rebuild_patron where rebuild_id = $1"),
    Statement::new("delete from {schema}.rebuild_difference where rebuild_id = $1"),
];

pub(super) const STATEMENTS: &[&Statement] = &[
    &INSERT_PATRONS,
    &INSERT_DIFFERENCES,
    &SET_BLOCK_SUMMARIES,
    &SELECT_PATRONS,
    &SELECT_DIFFERENCES,
    &SELECT_SIGNIFICANT,
    &SELECT_INSIGNIFICANT,
    &SET_INSIGNIFICANT_APPLIED,
    &DELETE_REPLACED,
    &DELETE_ORPHANS[0],
    &DELETE_ORPHANS[1],
    &SELECT_UNAPPLIED,
    &SET_APPLIED,
    &SELECT_SUMMARY,
    &DELETE[0],
    &DELETE[1],
];

/// A patron of whom something is different.
#[derive(Debug, Clone, FromRow)]
pub struct PatronDifferences {
    /// Who.
    pub user_id: Uuid,
    /// How many loans differ.
    pub loans: i32,
    /// How many fees/fines.
    pub fees_fines: i32,
    /// Whether the counters differ from a recount.
    pub counters: bool,
    /// Open loans as things are.
    pub current_loans: Option<i32>,
    /// Open loans as things are to be.
    pub target_loans: Option<i32>,
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
    pub current_state: Option<Value>,
    /// As it is to count.
    pub target_state: Option<Value>,
}

/// The kind of what is open here, and is not to be.
pub const ONLY_CURRENT_KIND: &str = "only_current";

/// The kind of what differs in nothing that counts.
pub const INSIGNIFICANT_KIND: &str = "insignificant";

impl Difference {
    /// Whether it differs in something that counts.
    pub fn is_significant(&self) -> bool {
        self.kind != INSIGNIFICANT_KIND
    }
}

/// How much was found to be different.
#[derive(Debug, Clone, FromRow, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferenceSummary {
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

impl DifferenceSummary {
    /// How many loans, or fees/fines, differ in this way.
    pub fn count(&self, is_loan: bool, kind: &str) -> i64 {
        let number = self.kinds.get(format!("{is_loan}/{kind}"));
        number.and_then(Value::as_i64).unwrap_or_default()
    }
}

/// Enters differences, and counts them for their patrons.
pub async fn insert(
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
    sqlx::query(schema.sql(&INSERT_DIFFERENCES))
        .bind(id)
        .bind(c.subject)
        .bind(c.is_loan)
        .bind(c.user_id)
        .bind(c.kind)
        .bind(c.registers)
        .bind(c.current_state)
        .bind(c.target_state)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("enter differences"))?;
    let (users, loans, fees) = count_by_patron(found);
    insert_patrons(tx, schema, id, &users, (&loans, &fees), false).await
}

#[derive(Default)]
struct Columns<'a> {
    subject: Vec<Uuid>,
    is_loan: Vec<bool>,
    user_id: Vec<Option<Uuid>>,
    kind: Vec<&'a str>,
    registers: Vec<String>,
    current_state: Vec<Option<&'a Value>>,
    target_state: Vec<Option<&'a Value>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, difference: &'a Difference) {
        self.subject.push(difference.subject);
        self.is_loan.push(difference.is_loan);
        self.user_id.push(difference.user_id);
        self.kind.push(&difference.kind);
        self.registers.push(difference.registers.join(","));
        self.current_state.push(difference.current_state.as_ref());
        self.target_state.push(difference.target_state.as_ref());
    }
}

/// Patrons, with how many of their loans and of their fees/fines differ in what counts.
fn count_by_patron(found: &[Difference]) -> (Vec<Uuid>, Vec<i32>, Vec<i32>) {
    let mut numbers: BTreeMap<Uuid, (i32, i32)> = BTreeMap::new();
    for difference in found.iter().filter(|difference| difference.is_significant()) {
        let Some(user) = difference.user_id else { continue };
        let (loans, fees) = numbers.entry(user).or_default();
        *(if difference.is_loan { loans } else { fees }) += 1;
    }
    let (loans, fees) = numbers.values().copied().unzip();
    (numbers.into_keys().collect(), loans, fees)
}

/// Enters patrons of whom so many loans and fees/fines differ.
pub async fn insert_patrons(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
    (loans, fees): (&[i32], &[i32]),
    counters: bool,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&INSERT_PATRONS))
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
pub struct BlockSummary {
    /// Open loans.
    pub open_loans: usize,
    /// Ids of conditions.
    pub blocked: Option<Vec<String>>,
}

/// Enters how patrons stand, and are to.
pub async fn set_block_summaries(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    of: &[(Uuid, BlockSummary, BlockSummary)],
) -> Result<(), Error> {
    let number = |standing: &BlockSummary| i32::try_from(standing.open_loans).unwrap_or(i32::MAX);
    let blocked = |standing: &BlockSummary| standing.blocked.as_ref().map(|ids| ids.join(","));
    sqlx::query(schema.sql(&SET_BLOCK_SUMMARIES))
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
pub async fn list_patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    limit: i64,
    offset: i64,
) -> Result<Vec<PatronDifferences>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_PATRONS)).bind(id).bind(limit).bind(offset);
    found.fetch_all(db).await.map_err(Error::at("list patrons who differ"))
}

/// What differs of these patrons; of each as many as a page has room for.
pub async fn list_of_patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
) -> Result<Vec<Difference>, Error> {
    // Fewer of each where many are asked for: so a page is bounded, and each patron has a part of it.
    let each = (PAGE_DIFFERENCES_MAX / users.len().max(1)).clamp(1, PATRON_DIFFERENCES_MAX);
    let each = i64::try_from(each).unwrap_or(i64::MAX);
    let found = sqlx::query_as(schema.sql(&SELECT_DIFFERENCES)).bind(id).bind(users).bind(each);
    let found = found.fetch_all(db).await;
    found.map_err(Error::at("list differences"))
}

/// Loans and fees/fines of these patrons that differ in what counts: which are loans.
pub async fn list_significant(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
) -> Result<Vec<(Uuid, bool)>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_SIGNIFICANT)).bind(id).bind(users);
    found.fetch_all(&mut **tx).await.map_err(Error::at("list what differs and counts"))
}

/// So many of those that differ in nothing that counts and are not put right yet: which are loans.
pub async fn list_insignificant(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, bool)>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_INSIGNIFICANT)).bind(id).bind(most);
    found.fetch_all(&mut **tx).await.map_err(Error::at("list what differs and doesn't count"))
}

/// Notes that these are put right, which differ in nothing that counts.
pub async fn set_insignificant_applied(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    subjects: &[Uuid],
) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_INSIGNIFICANT_APPLIED)).bind(id).bind(subjects);
    set.execute(&mut **tx).await.map(|_| ()).map_err(Error::at("note what is put right"))
}

/// Forgets what rebuilds have found that are not known any more.
pub async fn delete_orphans(tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
    for statement in &DELETE_ORPHANS {
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
    let gone =
        sqlx::query(schema.sql(&DELETE_REPLACED)).bind(id).bind(subjects).execute(&mut **tx).await;
    gone.map_err(Error::at("replace differences"))?;
    insert(tx, schema, id, found).await
}

/// Patrons who are not put right yet, with how much of them differs.
pub async fn list_unapplied(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, i32)>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_UNAPPLIED)).bind(id).bind(most);
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
pub async fn summarize(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
) -> Result<DifferenceSummary, Error> {
    let summed = sqlx::query_as(schema.sql(&SELECT_SUMMARY)).bind(id).fetch_one(db).await;
    summed.map_err(Error::at("sum up differences"))
}

/// Forgets what was found.
pub async fn delete(tx: &mut Tx, schema: &Schema, id: Uuid) -> Result<(), Error> {
    for statement in &DELETE {
        let gone = sqlx::query(schema.sql(statement)).bind(id).execute(&mut **tx).await;
        gone.map_err(Error::at("forget differences"))?;
    }
    Ok(())
}
