//! What the tables say about missing events of one patron.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    event::{TenantId, stamp::Horizon},
    store::{Connection, Error, Schema, Statement},
};

/// Selects the ids of the patron and the patron's open items.
macro_rules! subjects_of_patron {
    () => {
        "(select array(
             select loan_id from {schema}.loan where user_id = $1 and is_open
             union all select fee_fine_id from {schema}.fee_fine where user_id = $1 and is_open) || $1
             as ids) subjects"
    };
}

/// Selects the dead letters that name the patron or an open item of the patron. The schema of the module has the
/// records that wait for a tenant, or whose tenant is unknown.
macro_rules! dead_letters_of_patron {
    () => {
        "(select dead_letter_id, received_at from {schema}.dead_letter d where d.subjects && subjects.ids
          union all
          select dead_letter_id, received_at from mod_patron_blocks.dead_letter m
           where (m.tenant = $2 or m.tenant is null) and m.subjects && subjects.ids)"
    };
}

const SELECT_EVIDENCE: Statement = Statement::new(concat!(
    "select greatest((select horizon from {schema}.patron_horizon where user_id = $1),
                     (select horizon from {schema}.tenant_horizon)) as horizon,
            (select max(received_at) from ",
    dead_letters_of_patron!(),
    " parked) as dead_letter_at
       from ",
    subjects_of_patron!(),
));

const SELECT_DEAD_LETTERS: Statement = Statement::new(concat!(
    "select parked.dead_letter_id from ",
    subjects_of_patron!(),
    " cross join lateral ",
    dead_letters_of_patron!(),
    " parked order by parked.received_at desc, parked.dead_letter_id limit $3"
));

/// Uses a partial index of these rows, which are few.
const COUNT_WAITING_LOANS: Statement = Statement::new(
    "select count(*) from {schema}.loan
      where check_out_stamp is null and snapshot_stamp is null and closed_stamp is null
        and fallback_user = $1",
);

const IS_KNOWN: Statement = Statement::new(
    "select exists (select from {schema}.patron where user_id = $1)
         or exists (select from {schema}.patron_counter where user_id = $1)",
);

pub(in crate::store) const STATEMENTS: &[&Statement] =
    &[&SELECT_EVIDENCE, &SELECT_DEAD_LETTERS, &COUNT_WAITING_LOANS, &IS_KNOWN];

/// What the tables say about missing events of one patron.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PatronEvidence {
    /// The horizon of the newest complete snapshot of the patron or of the tenant.
    pub snapshot_horizon: Option<Horizon>,
    /// When the newest dead letter that names the patron, or an open item of the patron, was stored.
    pub dead_letter_at: Option<DateTime<Utc>>,
}

/// Loads what the tables say about missing events of a patron.
pub async fn load(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    tenant: &TenantId,
    user: Uuid,
) -> Result<PatronEvidence, Error> {
    let (horizon, dead_letter_at): (Option<Vec<u8>>, Option<DateTime<Utc>>) =
        sqlx::query_as(schema.sql(&SELECT_EVIDENCE))
            .bind(user)
            .bind(tenant.as_str())
            .fetch_one(db)
            .await
            .map_err(Error::at("read what may be missing of a patron"))?;
    let snapshot_horizon = horizon.as_deref().and_then(Horizon::from_bytes);
    Ok(PatronEvidence { snapshot_horizon, dead_letter_at })
}

/// Returns whether the tenant has a row about a patron.
pub async fn is_known_patron(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    user: Uuid,
) -> Result<bool, Error> {
    let found = sqlx::query_scalar(schema.sql(&IS_KNOWN)).bind(user).fetch_one(db).await;
    found.map_err(Error::at("find a patron"))
}

/// Returns the ids of the newest dead letters that name a patron or an open item of the patron, and the number of
/// loans that wait for their check-out and name the patron.
pub async fn details(
    db: &mut Connection,
    schema: &Schema,
    tenant: &TenantId,
    user: Uuid,
    limit: i64,
) -> Result<(Vec<Uuid>, i64), Error> {
    let dead_letters = sqlx::query_scalar(schema.sql(&SELECT_DEAD_LETTERS))
        .bind(user)
        .bind(tenant.as_str())
        .bind(limit)
        .fetch_all(&mut *db)
        .await
        .map_err(Error::at("list the dead letters of a patron"))?;
    let waiting = sqlx::query_scalar(schema.sql(&COUNT_WAITING_LOANS))
        .bind(user)
        .fetch_one(db)
        .await
        .map_err(Error::at("count the waiting loans of a patron"))?;
    Ok((dead_letters, waiting))
}
