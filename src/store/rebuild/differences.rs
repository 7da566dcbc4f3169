//! The differences that rebuilds find, in tables of the tenant's schema.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::rebuilds::DifferenceCounts;
use crate::store::{Error, Schema, Statement, Tx};

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

/// Selects the patrons with the most differences first. Insignificant differences have no patron row.
const SELECT_PATRONS: Statement = Statement::new(
    "select user_id, loans, fees_fines, counters, current_loans, target_loans, blocked_before, blocked_after, applied_at
       from {schema}.rebuild_patron where rebuild_id = $1
      order by loans + fees_fines desc, user_id limit $2 offset $3",
);

/// The maximum numbers of differences on a page of patrons, and of one patron.
const PAGE_DIFFERENCES_MAX: usize = 20_000;
const PATRON_DIFFERENCES_MAX: usize = 1000;

/// Selects at most `$3` differences per patron, the significant differences first.
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

/// Deletes the differences of rebuilds without a row in the module's table of jobs.
const DELETE_ORPHANS: [Statement; 2] = [
    Statement::new(
        "delete from {schema}.rebuild_patron
          where rebuild_id not in (select id from mod_patron_blocks.job where kind = 'rebuild')",
    ),
    Statement::new(
        "delete from {schema}.rebuild_difference
          where rebuild_id not in (select id from mod_patron_blocks.job where kind = 'rebuild')",
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

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
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

/// A patron with differences.
#[derive(Debug, Clone, FromRow)]
pub struct PatronDifferences {
    /// The patron's user id.
    pub user_id: Uuid,
    /// The number of loans with a significant difference.
    pub loans: i32,
    /// The number of fees/fines with a significant difference.
    pub fees_fines: i32,
    /// Whether the counters differ from a recount.
    pub counters: bool,
    /// The number of open loans before the rebuild is applied.
    pub current_loans: Option<i32>,
    /// The number of open loans after the rebuild is applied.
    pub target_loans: Option<i32>,
    /// The conditions that block the patron before the rebuild is applied; `None` without an evaluation.
    pub blocked_before: Option<Vec<String>>,
    /// The conditions that block the patron after the rebuild is applied; `None` without an evaluation.
    pub blocked_after: Option<Vec<String>>,
    /// The time at which the patron's differences were applied.
    pub applied_at: Option<DateTime<Utc>>,
}

/// A loan or fee/fine with a difference.
#[derive(Debug, Clone, FromRow)]
pub struct Difference {
    /// The id of the loan or fee/fine.
    pub subject: Uuid,
    /// Whether the subject is a loan.
    pub is_loan: bool,
    /// The target owner, or else the current owner. `None` if no patron is known; the difference is then
    /// insignificant.
    pub user_id: Option<Uuid>,
    /// The kind of the difference.
    pub kind: String,
    /// The registers that differ.
    pub registers: Vec<String>,
    /// The current state, as far as the state counts.
    pub current_state: Option<Value>,
    /// The target state, as far as the state counts.
    pub target_state: Option<Value>,
}

/// The kind of a loan or fee/fine that is open now and closed in the target.
pub const ONLY_CURRENT_KIND: &str = "only_current";

/// The kind of a difference that changes neither a count nor a block.
pub const INSIGNIFICANT_KIND: &str = "insignificant";

impl Difference {
    /// Returns whether the difference changes a count or a block.
    pub fn is_significant(&self) -> bool {
        self.kind != INSIGNIFICANT_KIND
    }
}

/// The numbers of differences that a rebuild found.
#[derive(Debug, Clone, FromRow)]
pub struct DifferenceSummary {
    /// The number of patrons with differences.
    pub patrons: i64,
    /// The number of these patrons with counters that differ from a recount.
    pub counters: i64,
    /// The number of these patrons with applied differences.
    pub applied: i64,
    /// The number of patrons that gain a block.
    pub blocked: i64,
    /// The number of patrons that lose a block.
    pub unblocked: i64,
    /// The numbers of loans (`true/…`) and fees/fines (`false/…`), by kind of difference.
    pub kinds: Value,
}

impl DifferenceSummary {
    /// Returns the numbers of loans, or fees/fines, by kind of difference.
    pub fn counts(&self, is_loan: bool) -> DifferenceCounts {
        let count = |kind: &str| {
            let number = self.kinds.get(format!("{is_loan}/{kind}"));
            number.and_then(Value::as_i64).unwrap_or_default()
        };
        DifferenceCounts {
            only_current: count(ONLY_CURRENT_KIND),
            only_in_source: count("only_target"),
            different: count("differs"),
            insignificant: count(INSIGNIFICANT_KIND),
        }
    }
}

/// Inserts differences, and adds the significant differences to the counts of their patrons.
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
        .map_err(Error::at("insert differences"))?;
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

/// Returns patrons, with the numbers of their loans and of their fees/fines that differ significantly.
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

/// Inserts patrons with the numbers of their differing loans and fees/fines, or adds to the stored
/// numbers.
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
        .map_err(Error::at("insert the patrons with differences"))?;
    Ok(())
}

/// The number of a patron's open loans, and the conditions that block the patron.
#[derive(Debug, Clone)]
pub struct BlockSummary {
    /// The number of open loans.
    pub open_loans: usize,
    /// The ids of the conditions; `None` without an evaluation.
    pub blocked: Option<Vec<String>>,
}

/// Stores the block summaries of patrons before and after the rebuild is applied.
pub async fn set_block_summaries(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    summaries: &[(Uuid, BlockSummary, BlockSummary)],
) -> Result<(), Error> {
    let number = |summary: &BlockSummary| i32::try_from(summary.open_loans).unwrap_or(i32::MAX);
    let blocked = |summary: &BlockSummary| summary.blocked.as_ref().map(|ids| ids.join(","));
    sqlx::query(schema.sql(&SET_BLOCK_SUMMARIES))
        .bind(id)
        .bind(summaries.iter().map(|(user, ..)| *user).collect::<Vec<_>>())
        .bind(summaries.iter().map(|(_, before, _)| blocked(before)).collect::<Vec<_>>())
        .bind(summaries.iter().map(|(.., after)| blocked(after)).collect::<Vec<_>>())
        .bind(summaries.iter().map(|(_, before, _)| number(before)).collect::<Vec<_>>())
        .bind(summaries.iter().map(|(.., after)| number(after)).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("record the blocks of patrons before and after a rebuild"))?;
    Ok(())
}

/// Returns a page of the patrons with differences, the patrons with the most differences first.
pub async fn list_patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    limit: i64,
    offset: i64,
) -> Result<Vec<PatronDifferences>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_PATRONS)).bind(id).bind(limit).bind(offset);
    found.fetch_all(db).await.map_err(Error::at("list the patrons with differences"))
}

/// Returns the differences of these patrons, limited per patron.
pub async fn list_of_patrons(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
) -> Result<Vec<Difference>, Error> {
    // The limit per patron shrinks with the number of patrons, so a page is bounded and includes every
    // patron.
    let per_patron_max =
        (PAGE_DIFFERENCES_MAX / users.len().max(1)).clamp(1, PATRON_DIFFERENCES_MAX);
    let per_patron_max = i64::try_from(per_patron_max).unwrap_or(i64::MAX);
    let found =
        sqlx::query_as(schema.sql(&SELECT_DIFFERENCES)).bind(id).bind(users).bind(per_patron_max);
    let found = found.fetch_all(db).await;
    found.map_err(Error::at("list differences"))
}

/// Returns the loans and fees/fines of these patrons that differ significantly; the flag is `true` for a
/// loan.
pub async fn list_significant(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
) -> Result<Vec<(Uuid, bool)>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_SIGNIFICANT)).bind(id).bind(users);
    found.fetch_all(&mut **tx).await.map_err(Error::at("list the significant differences"))
}

/// Returns at most `most` insignificant differences that are not applied yet; the flag is `true` for a
/// loan.
pub async fn list_insignificant(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, bool)>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_INSIGNIFICANT)).bind(id).bind(most);
    found.fetch_all(&mut **tx).await.map_err(Error::at("list the insignificant differences"))
}

/// Marks insignificant differences as applied.
pub async fn set_insignificant_applied(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    subjects: &[Uuid],
) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_INSIGNIFICANT_APPLIED)).bind(id).bind(subjects);
    set.execute(&mut **tx)
        .await
        .map(|_| ())
        .map_err(Error::at("mark insignificant differences as applied"))
}

/// Deletes the differences of rebuilds without a row in the module's table of jobs.
pub async fn delete_orphans(tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
    for statement in &DELETE_ORPHANS {
        let gone = sqlx::query(schema.sql(statement)).execute(&mut **tx).await;
        gone.map_err(Error::at("delete differences"))?;
    }
    Ok(())
}

/// Replaces the stored differences of the same loans and fees/fines.
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

/// Returns at most `most` patrons with unapplied differences, and the number of differences of each.
pub async fn list_unapplied(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    most: i64,
) -> Result<Vec<(Uuid, i32)>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_UNAPPLIED)).bind(id).bind(most);
    found
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("list the patrons with unapplied differences"))
}

/// Marks the differences of patrons as applied.
pub async fn set_applied(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    users: &[Uuid],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_APPLIED)).bind(id).bind(users).bind(now);
    set.execute(&mut **tx)
        .await
        .map(|_| ())
        .map_err(Error::at("mark the differences of patrons as applied"))
}

/// Summarizes the differences of a rebuild.
pub async fn summarize(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
) -> Result<DifferenceSummary, Error> {
    let summed = sqlx::query_as(schema.sql(&SELECT_SUMMARY)).bind(id).fetch_one(db).await;
    summed.map_err(Error::at("summarize differences"))
}

/// Deletes the differences of a rebuild.
pub async fn delete(tx: &mut Tx, schema: &Schema, id: Uuid) -> Result<(), Error> {
    for statement in &DELETE {
        let gone = sqlx::query(schema.sql(statement)).bind(id).execute(&mut **tx).await;
        gone.map_err(Error::at("delete differences"))?;
    }
    Ok(())
}
