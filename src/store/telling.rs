//! Of which patrons something may have changed, and what was told of each last (docs/decisions/0019).

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::{PgExecutor, types::Json};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};
use crate::{
    blocks::{Approaching, Blocked, Cause},
    event::TenantId,
};

const SET: Statement = Statement::new("select {schema}.set_telling($1)");

/// How patrons are looked at from now on; where that is another way, all are to be looked at.
const SET_WAY: Statement = Statement::new(
    "with old as (select approaching_percent from {schema}.telling),
          set as (update {schema}.telling set approaching_percent = $1)
     insert into {schema}.policy_change (patron_group, cause)
     select null, $2 from old where old.approaching_percent is distinct from $1",
);

/// The lease goes by the database's clock. A condition that no row meets leaves it with its owner.
const OWN: Statement = Statement::new(
    "update {schema}.telling
        set owner = $1, owned_until = case when $1 is null then null
                                           else clock_timestamp() + interval '60 seconds' end
      where owner is null or owner = $1 or owned_until is null or owned_until < clock_timestamp()",
);

const DISOWN: Statement =
    Statement::new("update {schema}.telling set owner = null, owned_until = null where owner = $1");

const WAY: Statement = Statement::new("select approaching_percent from {schema}.telling");

/// Beyond so many it does not matter how many there are.
const LOOK: Statement = Statement::new(
    "select (select count(*) from (select from {schema}.touched_patron limit 10000) t) as touched,
            exists (select from {schema}.policy_change) as policy,
            (select count(*) from (select from {schema}.told_patron where look_at <= $1 limit 10000) d)
              as due,
            (select count(*) from (select from {schema}.message_outbox where status = 'NEW' limit 100000) m)
              as unsent,
            (select created_at from {schema}.message_outbox where status = 'NEW' order by sequence limit 1)
              as oldest_unsent,
            exists (select from pg_trigger where tgrelid = '{schema}.patron_counter'::regclass
                       and tgname = 'note_inserted') as is_on,
            t.approaching_percent, t.owner, coalesce(t.owned_until > now(), false) as is_owned,
            coalesce(t.owned_until < now() + interval '30 seconds', true) as to_renew
       from {schema}.telling t",
);

const IS_SPREAD: Statement =
    Statement::new("select not exists (select from {schema}.policy_change)");

/// Patrons of a group: whom the desk or the topic says so of, in whatever case. With no group named, all who have
/// anything open or of whom something was told.
const SPREAD: Statement = Statement::new(
    "with changes as (delete from {schema}.policy_change returning patron_group, cause)
     insert into {schema}.touched_patron (later, user_id, cause)
     select true, user_id, min(cause) from (
       select p.user_id, g.cause
         from changes g join {schema}.patron p on lower(g.patron_group) in (lower(p.told_group), lower(p.patron_group))
         join {schema}.patron_counter c on c.user_id = p.user_id
        where c.open_loans > 0 or c.open_fees_fines > 0
       union all
       select c.user_id, g.cause from changes g, {schema}.patron_counter c
        where g.patron_group is null and (c.open_loans > 0 or c.open_fees_fines > 0)
       union all
       select t.user_id, g.cause from changes g, {schema}.told_patron t where g.patron_group is null) all_of
      group by user_id",
);

const TAKE: Statement = Statement::new(
    "delete from {schema}.touched_patron
      where (later, number) in (
        select later, number from {schema}.touched_patron order by later, number limit $1)
     returning user_id, cause, number",
);

const DUE: Statement = Statement::new(
    "select user_id from {schema}.told_patron where look_at <= $1 order by look_at limit $2",
);

const TOLD: Statement = Statement::new(
    "select user_id, blocked, approaching, look_at from {schema}.told_patron where user_id = any($1)",
);

const FORGET: Statement =
    Statement::new("delete from {schema}.told_patron where user_id = any($1)");

const KEEP: Statement = Statement::new(
    "insert into {schema}.told_patron as t (user_id, blocked, approaching, look_at)
     select user_id, blocked::jsonb, approaching::jsonb, look_at
       from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
         as x (user_id, blocked, approaching, look_at)
     on conflict (user_id) do update set
       blocked = excluded.blocked, approaching = excluded.approaching, look_at = excluded.look_at",
);

pub(super) const STATEMENTS: &[&Statement] = &[
    &SET, &SET_WAY, &OWN, &DISOWN, &WAY, &LOOK, &IS_SPREAD, &SPREAD, &TAKE, &DUE, &TOLD, &FORGET,
    &KEEP,
];

/// Has what changes be noted, or not any more. Nobody else may write the tenant's rows meanwhile.
pub async fn set(tx: &mut Tx, schema: &Schema, on: bool) -> Result<bool, Error> {
    let set = sqlx::query_scalar(schema.sql(&SET)).bind(on).fetch_one(&mut **tx).await;
    set.map_err(Error::at("have changes noted"))
}

/// How patrons are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Within so many percent a limit is near.
    pub approaching_percent: u8,
}

impl Way {
    fn stored(approaching_percent: Option<i16>) -> Option<Self> {
        let approaching_percent = u8::try_from(approaching_percent?).ok()?;
        Some(Self { approaching_percent })
    }
}

/// Has patrons be looked at in this way. Where that is another than before, all are, and this is the cause.
pub async fn set_way(tx: &mut Tx, schema: &Schema, way: Way, cause: Cause) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_WAY)).bind(i16::from(way.approaching_percent));
    let set = set.bind(cause.name());
    let set = set.execute(&mut **tx).await;
    set.map(|_| ()).map_err(Error::at("have patrons be looked at in another way"))
}

/// Takes or renews the lease of the way in which a tenant's patrons are looked at, or with `None` has nobody hold
/// it. `false` where it is another instance's.
pub async fn own(tx: &mut Tx, schema: &Schema, owner: Option<Uuid>) -> Result<bool, Error> {
    let owned = sqlx::query(schema.sql(&OWN)).bind(owner).execute(&mut **tx).await;
    Ok(owned.map_err(Error::at("own how patrons are looked at"))?.rows_affected() > 0)
}

/// Gives the lease back.
pub async fn disown(db: impl PgExecutor<'_>, schema: &Schema, owner: Uuid) -> Result<(), Error> {
    let disowned = sqlx::query(schema.sql(&DISOWN)).bind(owner).execute(db).await;
    disowned.map(|_| ()).map_err(Error::at("disown how patrons are looked at"))
}

/// In which way patrons are looked at; none where that was not set yet.
pub async fn way(db: impl PgExecutor<'_>, schema: &Schema) -> Result<Option<Way>, Error> {
    let percent: Option<Option<i16>> = sqlx::query_scalar(schema.sql(&WAY))
        .fetch_optional(db)
        .await
        .map_err(Error::at("read how patrons are looked at"))?;
    Ok(percent.and_then(Way::stored))
}

/// Why patrons are touched by this transaction, where it isn't an event.
pub async fn because(tx: &mut Tx, cause: Cause) -> Result<(), Error> {
    let set = "select set_config('patron_blocks.cause', $1, true)";
    let set = sqlx::query(set).bind(cause.name()).execute(&mut **tx).await;
    set.map(|_| ()).map_err(Error::at("say why patrons change"))
}

/// What there is to do for a tenant, counted as far as it matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Waiting {
    /// Notes of patrons to be looked at.
    pub touched: i64,
    /// Whether limits or conditions have changed.
    pub policy: bool,
    /// Patrons for whom time has come.
    pub due: i64,
    /// Messages that are not sent.
    pub unsent: i64,
    /// When the first of them was written.
    pub oldest_unsent: Option<DateTime<Utc>>,
    /// Whether what changes is noted.
    pub is_on: bool,
    /// As [`Way::approaching_percent`], if that was set.
    pub approaching_percent: Option<i16>,
    /// The instance that may change the way in which patrons are looked at.
    pub owner: Option<Uuid>,
    /// Whether its lease lasts.
    pub is_owned: bool,
    /// Whether half of the lease has gone by, or there is none.
    pub to_renew: bool,
}

impl Waiting {
    /// How patrons were last looked at; none where they never were.
    pub fn way(&self) -> Option<Way> {
        Way::stored(self.approaching_percent)
    }
}

/// Looks what there is to do.
pub async fn look(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    now: DateTime<Utc>,
) -> Result<Waiting, Error> {
    let look = sqlx::query_as(schema.sql(&LOOK)).bind(now).fetch_one(db).await;
    look.map_err(Error::at("look what is to be told"))
}

/// What a tenant's messages are made under, by one at a time.
#[derive(Debug, Clone, Copy)]
pub enum Turn {
    /// Looking at patrons.
    Tell,
    /// Sending.
    Send,
}

/// Takes the turn until the transaction ends, unless somebody else has it.
pub async fn take_turn(tx: &mut Tx, tenant: &TenantId, turn: Turn) -> Result<bool, Error> {
    let taken = sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtextextended($1, 2))")
        .bind(turn.name(tenant))
        .fetch_one(&mut **tx)
        .await;
    taken.map_err(Error::at("take the turn to tell"))
}

/// As [`take_turn`], but waits for it.
pub async fn wait_for_turn(tx: &mut Tx, tenant: &TenantId, turn: Turn) -> Result<(), Error> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 2))")
        .bind(turn.name(tenant))
        .execute(&mut **tx)
        .await
        .map(|_| ())
        .map_err(Error::at("wait for the turn to tell"))
}

impl Turn {
    fn name(self, tenant: &TenantId) -> String {
        let turn = match self {
            Self::Tell => "tell",
            Self::Send => "send",
        };
        format!("mod_patron_blocks/{tenant}/{turn}")
    }
}

/// Patrons who are to be looked at, each once, with the first cause: those something happened to, those whom
/// time concerns, then those whom a change of what the library has set concerns. Whoever is changed from here
/// on is noted again. Tells whether there may be more.
pub async fn take(
    tx: &mut Tx,
    schema: &Schema,
    now: DateTime<Utc>,
    most: i64,
) -> Result<(BTreeMap<Uuid, Cause>, bool), Error> {
    let failed = || Error::at("take patrons to be looked at");
    let is_spread: bool =
        sqlx::query_scalar(schema.sql(&IS_SPREAD)).fetch_one(&mut **tx).await.map_err(failed())?;
    if !is_spread {
        sqlx::query(schema.sql(&SPREAD)).execute(&mut **tx).await.map_err(failed())?;
    }
    let mut taken: Vec<(Uuid, String, i64)> =
        sqlx::query_as(schema.sql(&TAKE)).bind(most).fetch_all(&mut **tx).await.map_err(failed())?;
    taken.sort_by_key(|(.., number)| *number);
    let due: Vec<Uuid> = sqlx::query_scalar(schema.sql(&DUE))
        .bind(now)
        .bind(most)
        .fetch_all(&mut **tx)
        .await
        .map_err(failed())?;
    let is_full = |many: usize| i64::try_from(many).is_ok_and(|many| many >= most);
    let more = is_full(taken.len()) || is_full(due.len());
    let mut patrons = BTreeMap::new();
    for (user, cause, _) in taken {
        patrons.entry(user).or_insert_with(|| Cause::named(&cause).unwrap_or(Cause::Event));
    }
    for user in due {
        patrons.entry(user).or_insert(Cause::TimePassed);
    }
    Ok((patrons, more))
}

/// What was told of a patron last, and when time alone may change it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Last {
    /// Of the blocks.
    pub blocked: Option<Blocked>,
    /// Of limits that are near.
    pub approaching: Option<Approaching>,
    /// When the patron is to be looked at again though nothing happens.
    pub look_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct LastRow {
    user_id: Uuid,
    blocked: Option<Json<Blocked>>,
    approaching: Option<Json<Approaching>>,
    look_at: Option<DateTime<Utc>>,
}

fn unwrap<T: DeserializeOwned>(json: Option<Json<T>>) -> Option<T> {
    json.map(|Json(value)| value)
}

/// What was told of these patrons.
pub async fn last(
    tx: &mut Tx,
    schema: &Schema,
    users: &[Uuid],
) -> Result<HashMap<Uuid, Last>, Error> {
    let rows: Vec<LastRow> = sqlx::query_as(schema.sql(&TOLD))
        .bind(users)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("read what was told"))?;
    let last = |LastRow { user_id, blocked, approaching, look_at }: LastRow| {
        (user_id, Last { blocked: unwrap(blocked), approaching: unwrap(approaching), look_at })
    };
    Ok(rows.into_iter().map(last).collect())
}

/// Keeps what is told of patrons from now on; of whom nothing is to be known goes.
pub async fn keep(tx: &mut Tx, schema: &Schema, told: &[(Uuid, Last)]) -> Result<(), Error> {
    let failed = || Error::at("keep what is told");
    let text = |value: serde_json::Result<String>| value.expect("what was read can be written");
    let nothing: Vec<Uuid> =
        told.iter().filter(|(_, last)| *last == Last::default()).map(|(user, _)| *user).collect();
    if !nothing.is_empty() {
        let gone = sqlx::query(schema.sql(&FORGET)).bind(nothing);
        gone.execute(&mut **tx).await.map_err(failed())?;
    }
    let (mut users, mut blocked, mut approaching, mut look_at) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (user, last) in told.iter().filter(|(_, last)| *last != Last::default()) {
        users.push(*user);
        blocked.push(last.blocked.as_ref().map(|told| text(serde_json::to_string(told))));
        approaching.push(last.approaching.as_ref().map(|told| text(serde_json::to_string(told))));
        look_at.push(last.look_at);
    }
    if !users.is_empty() {
        let kept = sqlx::query(schema.sql(&KEEP));
        let kept = kept.bind(users).bind(blocked).bind(approaching).bind(look_at);
        kept.execute(&mut **tx).await.map_err(failed())?;
    }
    Ok(())
}
