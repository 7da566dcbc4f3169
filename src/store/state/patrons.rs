//! The state of a patron for an evaluation, the summary, and the patron group cache.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    blocks::Measures,
    event::{Stamp, stamp::Horizon},
    patron::{Register, overdue_days},
    store::{Error, Schema, Statement, Tx},
};

/// Joins the sum of the balances that do not count, because their loan is claimed returned, to the counters `c`.
macro_rules! uncounted_fees {
    () => {
        "left join lateral (
         select sum(f.balance) as uncounted
           from {schema}.fee_fine f
           join {schema}.loan l on l.loan_id = f.loan_id
          where c.claimed_returned_loans > 0 and f.user_id = c.user_id and f.is_open
            and l.user_id = c.user_id and l.is_open and l.claimed_returned) x on true"
    };
}
pub(super) use uncounted_fees;

/// Selects the counters, the overdue loans and the last known patron group. The balance excludes
/// fees/fines of loans that are claimed returned. `blocks::Measures::compute` defines the result.
macro_rules! state {
    ($columns:literal, $counters:literal, $of:literal) => {
        concat!(
            "select ",
            $columns,
            "c.open_loans::int8, c.open_fees_fines::int8,
            (c.open_loans - c.claimed_returned_loans)::int8 as charged_out,
            c.lost_loans::int8 as lost, o.overdue, o.overdue_recalls, o.first_recall_due,
            c.fee_fine_balance - coalesce(x.uncounted, 0) as fee_fine_balance,
            p.users_group, p.users_group_at, p.topic_group, p.topic_group_at, now() as read_at
       from ",
            $counters,
            " c
      cross join lateral (
         select count(*) as overdue, count(*) filter (where l.recall) as overdue_recalls,
                min(l.due_date) filter (where l.recall) as first_recall_due
           from {schema}.loan l
          where l.user_id = c.user_id and l.is_open and not l.claimed_returned
            and l.overdue_from <= $2) o
 ",
            uncounted_fees!(),
            "
       left join {schema}.patron p on p.user_id = c.user_id
      where ",
            $of
        )
    };
}

/// Loads the state for an API request in one round trip. The server reads the horizons only if $3 is true.
const SELECT_STATE: Statement = Statement::new(state!(
    "case when $3 then greatest((select horizon from {schema}.patron_horizon where user_id = $1),
                                (select horizon from {schema}.tenant_horizon)) end as snapshot_horizon, ",
    "{schema}.patron_counter",
    "c.user_id = $1"
));

/// Loads the state of a patron from a recount of the rows, with one row for any patron. The flag is whether the
/// stored counters differ from the recount.
const SELECT_RECOUNTED_STATE: Statement = Statement::new(state!(
    "c.counters_differ, ",
    "(select r.*,
             (r.open_loans, r.lost_loans, r.claimed_returned_loans, r.recalled_loans,
              r.open_fees_fines, r.fee_fine_balance)
               is distinct from
             (coalesce(s.open_loans, 0), coalesce(s.lost_loans, 0), coalesce(s.claimed_returned_loans, 0),
              coalesce(s.recalled_loans, 0), coalesce(s.open_fees_fines, 0),
              coalesce(s.fee_fine_balance, 0)) as counters_differ
        from (select $1::uuid as user_id, coalesce(sum(loans), 0) as open_loans,
                     coalesce(sum(lost), 0) as lost_loans, coalesce(sum(claimed), 0) as claimed_returned_loans,
                     coalesce(sum(recalled), 0) as recalled_loans, coalesce(sum(fees), 0) as open_fees_fines,
                     coalesce(sum(balance), 0) as fee_fine_balance
                from {schema}.counted where user_id = $1) r
        left join {schema}.patron_counter s on s.user_id = r.user_id)",
    "true"
));

/// Loads the states of many patrons, with the time at which the next loan of each becomes overdue.
const SELECT_STATES: Statement = Statement::new(state!(
    "c.user_id, (select min(l.overdue_from) from {schema}.loan l
                  where l.user_id = c.user_id and l.is_open and not l.claimed_returned
                    and l.overdue_from > $2) as next_overdue, ",
    "{schema}.patron_counter",
    "c.user_id = any($1)"
));

/// Selects the due dates of the overdue recalls, latest first, so that the overdue days ascend.
const SELECT_RECALL_DUE_DATES: Statement = Statement::new(
    "select due_date from {schema}.loan
      where user_id = $1 and is_open and not claimed_returned and recall and overdue_from <= $2
      order by due_date desc",
);

const SELECT_SUMMARY: Statement =
    Statement::new("select jsonb::text from {schema}.user_summary where user_id = $1");

/// Stores the time by the database clock, which all instances share. A stored time in the future is
/// invalid and is always replaced.
const UPSERT_USERS_GROUP: Statement = Statement::new(
    "insert into {schema}.patron as t (user_id, users_group, users_group_at)
     values ($1, $2, now() - $3 * interval '1 second')
     on conflict (user_id) do update set
       users_group = excluded.users_group, users_group_at = excluded.users_group_at
       where t.users_group_at is null or t.users_group_at < excluded.users_group_at or t.users_group_at > now()",
);

/// Processes the patrons in id order, which prevents deadlocks between writers. The time of a record from
/// a fast clock is limited to the time of arrival; otherwise no later response of mod-users could be
/// newer.
const UPSERT_TOPIC_GROUPS: Statement = Statement::new(
    "insert into {schema}.patron as t (user_id, topic_group, topic_group_stamp, topic_group_at)
     select unnest($1::uuid[]), unnest($2::text[]), unnest($3::bytea[]),
            least(unnest($4::timestamptz[]), now())
     on conflict (user_id) do update set
       topic_group = excluded.topic_group, topic_group_stamp = excluded.topic_group_stamp,
       topic_group_at = excluded.topic_group_at
       where t.topic_group_stamp is null or t.topic_group_stamp < excluded.topic_group_stamp",
);

/// The newer of the group from the topic and the group from mod-users, of a row of `patron`.
macro_rules! newer_group {
    () => {
        "case when topic_group_at >= users_group_at or users_group_at is null then topic_group
              else users_group end"
    };
}
pub(super) use newer_group;

const SELECT_GROUPS: Statement = Statement::new(concat!(
    "select user_id, patron_group from (
        select user_id, ",
    newer_group!(),
    " as patron_group
          from {schema}.patron where user_id = any($1)) known
      where patron_group is not null",
));

/// Selects every patron with counters that differ from a recount of the rows.
const SELECT_DRIFTED: Statement = Statement::new(
    "with recount as (
       select user_id, sum(loans) as loans, sum(lost) as lost, sum(claimed) as claimed,
              sum(recalled) as recalled, sum(fees) as fees, sum(balance) as balance
         from {schema}.counted group by user_id)
     select coalesce(r.user_id, c.user_id)
       from recount r full join {schema}.patron_counter c on c.user_id = r.user_id
      where (coalesce(r.loans, 0), coalesce(r.lost, 0), coalesce(r.claimed, 0),
             coalesce(r.recalled, 0), coalesce(r.fees, 0), coalesce(r.balance, 0))
         is distinct from
            (coalesce(c.open_loans, 0), coalesce(c.lost_loans, 0),
             coalesce(c.claimed_returned_loans, 0), coalesce(c.recalled_loans, 0),
             coalesce(c.open_fees_fines, 0), coalesce(c.fee_fine_balance, 0))
      order by 1",
);

const SELECT_WITH_OPEN_ITEMS: Statement = Statement::new(
    "select user_id from {schema}.patron_counter
      where user_id > $1 and (open_loans > 0 or open_fees_fines > 0) order by user_id limit $2",
);

/// Uses partial indexes for these rows, which are few.
const COUNT_WAITING: Statement = Statement::new(
    "select (select count(*) from {schema}.loan
              where check_out_stamp is null and snapshot_stamp is null and closed_stamp is null)
              as loans,
            (select count(*) from {schema}.fee_fine where user_id is null and balance <> 0)
              as fees_fines",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &SELECT_STATE,
    &SELECT_RECOUNTED_STATE,
    &SELECT_STATES,
    &SELECT_RECALL_DUE_DATES,
    &SELECT_SUMMARY,
    &UPSERT_USERS_GROUP,
    &UPSERT_TOPIC_GROUPS,
    &SELECT_GROUPS,
    &SELECT_DRIFTED,
    &SELECT_WITH_OPEN_ITEMS,
    &COUNT_WAITING,
];

/// The numbers of loans and fees/fines from events that count for no patron yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct WaitingCounts {
    /// The number of loans without a check-out, snapshot or closing; the check-out is late or was lost.
    pub loans: i64,
    /// The number of fees/fines with a balance and without an owner.
    pub fees_fines: i64,
}

/// Counts the loans and fees/fines that wait for an owner.
pub async fn count_waiting(
    db: impl PgExecutor<'_>,
    schema: &Schema,
) -> Result<WaitingCounts, Error> {
    sqlx::query_as(schema.sql(&COUNT_WAITING))
        .fetch_one(db)
        .await
        .map_err(Error::at("count the loans and fees/fines without an owner"))
}

/// The state of a patron with counters.
#[derive(Debug, Clone, PartialEq)]
pub struct PatronState {
    /// The numbers that an evaluation compares with limits.
    pub measures: Measures,
    /// The due date of the recalled loan that has been overdue for the longest time.
    pub first_recall_due: Option<DateTime<Utc>>,
    /// The patron group from the last response of mod-users.
    pub users_group: Option<KnownGroup>,
    /// The patron group from the newest record of the topic.
    pub topic_group: Option<KnownGroup>,
    /// The time of the read, by the database clock.
    pub read_at: DateTime<Utc>,
    /// The horizon of the newest complete snapshot of the patron or of the tenant, if the read was asked for it.
    pub snapshot_horizon: Option<Horizon>,
}

/// A patron group and the time at which the group was known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownGroup {
    /// The group's id as text, which is only compared. `None` if the source reported that the patron has
    /// no group.
    pub group: Option<String>,
    /// The time at which the source reported the group.
    pub known_at: DateTime<Utc>,
}

impl PatronState {
    /// Returns the newer of the group from mod-users and the group from the topic; `None` without either.
    /// A known absence of a group is `Some` with the group `None`.
    pub fn known_group(&self) -> Option<&KnownGroup> {
        self.users_group.iter().chain(&self.topic_group).max_by_key(|known| known.known_at)
    }

    /// Returns whether the topic contains the known group, so that no newer response of mod-users
    /// contradicts the topic.
    pub fn is_topic_group(&self) -> bool {
        let (known, topic) = (self.known_group(), self.topic_group.as_ref());
        let groups = known.and_then(|known| known.group.as_ref());
        let groups = groups.zip(topic.and_then(|topic| topic.group.as_ref()));
        groups.is_some_and(|(known, topic)| known.eq_ignore_ascii_case(topic))
    }

    /// Returns the age of a known group as an absolute value, so a time in the future counts as equally
    /// old.
    pub fn age(&self, known: &KnownGroup) -> TimeDelta {
        (self.read_at - known.known_at).abs()
    }
}

/// The columns of a patron's state.
#[derive(sqlx::FromRow)]
pub(super) struct StateRow {
    open_loans: i64,
    open_fees_fines: i64,
    charged_out: i64,
    lost: i64,
    overdue: i64,
    overdue_recalls: i64,
    first_recall_due: Option<DateTime<Utc>>,
    fee_fine_balance: Decimal,
    users_group: Option<String>,
    users_group_at: Option<DateTime<Utc>>,
    topic_group: Option<String>,
    topic_group_at: Option<DateTime<Utc>>,
    read_at: DateTime<Utc>,
    /// Only the statement of an evaluation has it.
    #[sqlx(default)]
    snapshot_horizon: Option<Vec<u8>>,
}

impl StateRow {
    pub(super) fn into_state(self, now: DateTime<Utc>) -> PatronState {
        let known = |group, known_at: Option<_>| Some(KnownGroup { group, known_at: known_at? });
        // The statement selects only overdue loans, so the grace period of each has already passed.
        let longest_recall = self.first_recall_due.map(|due| overdue_days(due, None, now));
        PatronState {
            measures: Measures {
                open_loans: self.open_loans,
                open_fees_fines: self.open_fees_fines,
                charged_out: self.charged_out,
                lost: self.lost,
                overdue: self.overdue,
                overdue_recalls: self.overdue_recalls,
                recall_days: longest_recall.into_iter().collect(),
                fee_fine_balance: self.fee_fine_balance,
            },
            first_recall_due: self.first_recall_due,
            users_group: known(self.users_group, self.users_group_at),
            topic_group: known(self.topic_group, self.topic_group_at),
            read_at: self.read_at,
            snapshot_horizon: self.snapshot_horizon.as_deref().and_then(Horizon::from_bytes),
        }
    }
}

/// Loads the state of `user` at `now`, on request with the snapshot horizon. Returns `None` if no event ever opened a
/// loan or fee/fine of the patron.
pub async fn load_state(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    user: Uuid,
    now: DateTime<Utc>,
    with_snapshot_horizon: bool,
) -> Result<Option<PatronState>, Error> {
    let row: Option<StateRow> = sqlx::query_as(schema.sql(&SELECT_STATE))
        .bind(user)
        .bind(now)
        .bind(with_snapshot_horizon)
        .fetch_optional(db)
        .await
        .map_err(Error::at("read a patron's state"))?;
    Ok(row.map(|row| row.into_state(now)))
}

/// Loads the days overdue of all overdue recalls of `user` at `now`, in ascending order.
pub async fn load_recall_days(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    user: Uuid,
    now: DateTime<Utc>,
) -> Result<Vec<i64>, Error> {
    let due_dates: Vec<DateTime<Utc>> = sqlx::query_scalar(schema.sql(&SELECT_RECALL_DUE_DATES))
        .bind(user)
        .bind(now)
        .fetch_all(db)
        .await
        .map_err(Error::at("read a patron's overdue recalls"))?;
    Ok(due_dates.into_iter().map(|due| overdue_days(due, None, now)).collect())
}

/// Loads the state of `user` at `now` from a recount of the rows, and whether the stored counters differ from
/// the recount.
pub async fn load_recounted_state(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    user: Uuid,
    now: DateTime<Utc>,
) -> Result<(PatronState, bool), Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        counters_differ: bool,
        #[sqlx(flatten)]
        state: StateRow,
    }
    let row: Row = sqlx::query_as(schema.sql(&SELECT_RECOUNTED_STATE))
        .bind(user)
        .bind(now)
        .fetch_one(db)
        .await
        .map_err(Error::at("recount a patron"))?;
    Ok((row.state.into_state(now), row.counters_differ))
}

/// Loads the state of each patron at `now`, with the time at which the next loan becomes overdue. Patrons
/// without counters are omitted.
pub async fn load_states(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    users: &[Uuid],
    now: DateTime<Utc>,
) -> Result<HashMap<Uuid, (PatronState, Option<DateTime<Utc>>)>, Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        user_id: Uuid,
        next_overdue: Option<DateTime<Utc>>,
        #[sqlx(flatten)]
        state: StateRow,
    }
    let rows: Vec<Row> = sqlx::query_as(schema.sql(&SELECT_STATES))
        .bind(users)
        .bind(now)
        .fetch_all(db)
        .await
        .map_err(Error::at("read the state of patrons"))?;
    let read = |row: Row| (row.user_id, (row.state.into_state(now), row.next_overdue));
    Ok(rows.into_iter().map(read).collect())
}

/// Returns the next `most` patrons with an open loan or fee/fine after `after`, in id order.
pub async fn list_with_open_items(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    after: Uuid,
    most: i64,
) -> Result<Vec<Uuid>, Error> {
    let found = sqlx::query_scalar(schema.sql(&SELECT_WITH_OPEN_ITEMS)).bind(after).bind(most);
    found.fetch_all(db).await.map_err(Error::at("list the patrons with open loans or fees/fines"))
}

/// Loads the summary of a patron as JSON text; `None` without an open loan or fee/fine.
pub async fn load_summary(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    user: Uuid,
) -> Result<Option<String>, Error> {
    sqlx::query_scalar(schema.sql(&SELECT_SUMMARY))
        .bind(user)
        .fetch_optional(db)
        .await
        .map_err(Error::at("read a patron's summary"))
}

/// Stores the group from a response of mod-users of this age, unless a later response is stored. If
/// mod-users returned no group, `None` replaces the stored group.
pub async fn store_users_group(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    user: Uuid,
    group: Option<&str>,
    age: Duration,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&UPSERT_USERS_GROUP))
        .bind(user)
        .bind(group)
        .bind(age.as_secs_f64())
        .execute(db)
        .await
        .map_err(Error::at("store a patron group"))?;
    Ok(())
}

/// Loads the known groups of these patrons. Patrons without a known group are omitted.
pub async fn load_groups(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    users: &[Uuid],
) -> Result<HashMap<Uuid, String>, Error> {
    let found: Vec<(Uuid, String)> = sqlx::query_as(schema.sql(&SELECT_GROUPS))
        .bind(users)
        .fetch_all(db)
        .await
        .map_err(Error::at("read patron groups"))?;
    Ok(found.into_iter().collect())
}

/// Stores the groups from the topic, each unless a later record is stored.
pub async fn store_topic_groups(
    tx: &mut Tx,
    schema: &Schema,
    registers: &BTreeMap<Uuid, Register<Option<String>>>,
) -> Result<(), Error> {
    let (mut users, mut groups) =
        (Vec::with_capacity(registers.len()), Vec::with_capacity(registers.len()));
    let (mut stamps, mut times): (Vec<&[u8]>, Vec<DateTime<Utc>>) = Default::default();
    for (user, register) in registers {
        let Some((stamp, group)) = register else { continue };
        users.push(*user);
        groups.push(group.as_deref());
        stamps.push(Stamp::as_bytes(stamp));
        times.push(stamp.at());
    }
    sqlx::query(schema.sql(&UPSERT_TOPIC_GROUPS))
        .bind(users)
        .bind(groups)
        .bind(stamps)
        .bind(times)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("store patron groups from a topic"))?;
    Ok(())
}

/// Returns the patrons with counters that differ from a recount of their rows (invariant I4 of
/// ARCHITECTURE.md). The list is empty unless an error occurred.
pub async fn list_drifted(db: impl PgExecutor<'_>, schema: &Schema) -> Result<Vec<Uuid>, Error> {
    sqlx::query_scalar(schema.sql(&SELECT_DRIFTED))
        .fetch_all(db)
        .await
        .map_err(Error::at("recount loans and fees/fines"))
}
