//! The inbox: which events were applied already. Claiming one is part of the transaction that applies
//! it (invariant I3 of ARCHITECTURE.md).

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};
use crate::event::{Event, Kind, Record, Stamp, TenantId};

/// The time of receipt is the database's: instances compare it. Arrays are unnested side by side, which hands their elements on as they are: `from unnest(…, …)` would
/// write each array into a store of its own before.
const CLAIM: Statement = Statement::new(
    r#"insert into {schema}.inbox (
         event_key, identified_by, kind, subject, user_id, occurred_at, timed_by, stamp, topic,
         partition, "offset", payload, received_at)
       select unnest($1::uuid[]), unnest($2::text[]), unnest($3::text[]), unnest($4::uuid[]),
              unnest($5::uuid[]), unnest($6::timestamptz[]), unnest($7::text[]), unnest($8::bytea[]),
              unnest($9::text[]), unnest($10::int4[]), unnest($11::int8[]), unnest($12::bytea[]), now()
       on conflict (event_key) do nothing
       returning event_key"#,
);

const SELECT_KNOWN_KEYS: Statement =
    Statement::new("select event_key from {schema}.inbox where event_key = any($1)");

const SELECT_EXTENT: Statement = Statement::new(
    "select h.inbox_complete_since as removed_until, t.enabled_at
       from {schema}.housekeeping h, mod_patron_blocks.tenant t where t.tenant = $1",
);

const SELECT_NEWEST_MISSING_STAMP: Statement = Statement::new(
    "select x.stamp from unnest($1::uuid[], $2::bytea[]) as x (subject, stamp)
      where not exists (select from {schema}.inbox i where i.subject = x.subject and i.stamp = x.stamp)
      order by x.stamp desc limit 1",
);

const RECORD_REMOVAL: Statement = Statement::new(
    "update {schema}.housekeeping set inbox_complete_since = $1
      where inbox_complete_since is null or inbox_complete_since < $1",
);

pub(super) const STATEMENTS: &[&Statement] =
    &[&CLAIM, &SELECT_KNOWN_KEYS, &SELECT_EXTENT, &SELECT_NEWEST_MISSING_STAMP, &RECORD_REMOVAL];

/// What a batch of events likely is. Right or wrong, the same are claimed; a wrong guess takes longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimHint {
    /// Events that come for the first time.
    New,
    /// Events that are known: a log that is read again.
    Replay,
}

/// Claims `events` and tells which of them are new. A key that stands twice in the batch is new once.
pub async fn claim(
    tx: &mut Tx,
    schema: &Schema,
    events: &[(&Record, &Event)],
    hint: ClaimHint,
) -> Result<HashSet<Uuid>, Error> {
    let mut sorted: Vec<_> = events.to_vec();
    // In key order, so that two writers who meet the same events wait for each other in one direction.
    sorted.sort_by_key(|(_, event)| event.key);
    if hint == ClaimHint::Replay {
        let known = select_known_keys(tx, schema, &sorted).await?;
        sorted.retain(|(_, event)| !known.contains(&event.key));
        if sorted.is_empty() {
            return Ok(HashSet::new());
        }
    }
    let c = Columns::from_events(&sorted);
    let fresh: Vec<Uuid> = sqlx::query_scalar(schema.sql(&CLAIM))
        .bind(&c.event_key)
        .bind(&c.identified_by)
        .bind(&c.kind)
        .bind(&c.subject)
        .bind(&c.user_id)
        .bind(&c.occurred_at)
        .bind(&c.timed_by)
        .bind(&c.stamp)
        .bind(&c.topic)
        .bind(&c.partition)
        .bind(&c.offset)
        .bind(&c.payload)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("claim events in the inbox"))?;
    Ok(fresh.into_iter().collect())
}

/// What the inbox has of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct InboxExtent {
    /// Nothing that came and happened since then has gone from it; `None` where nothing ever has. Triggers note it.
    pub removed_until: Option<DateTime<Utc>>,
    /// When the tenant was enabled last. Before, its records were passed by in topics of collections.
    pub enabled_at: DateTime<Utc>,
}

impl InboxExtent {
    /// Since when it has everything that came or happened and was applied.
    pub fn complete_since(&self) -> DateTime<Utc> {
        self.removed_until.map_or(self.enabled_at, |gone| gone.max(self.enabled_at))
    }
}

/// What the inbox has; `None` where no such tenant is known.
pub async fn load_extent(
    tx: &mut Tx,
    schema: &Schema,
    tenant: &TenantId,
) -> Result<Option<InboxExtent>, Error> {
    let extent = sqlx::query_as(schema.sql(&SELECT_EXTENT)).bind(tenant.as_str());
    let extent = extent.fetch_optional(&mut **tx).await;
    extent.map_err(Error::at("look how much the inbox has"))
}

/// The newest of these stamps, each of a loan or fee/fine, of which the inbox has no event.
pub async fn newest_missing_stamp(
    tx: &mut Tx,
    schema: &Schema,
    stamps: &[(Uuid, Stamp)],
) -> Result<Option<Stamp>, Error> {
    let (subjects, stamps): (Vec<Uuid>, Vec<&[u8]>) =
        stamps.iter().map(|(subject, stamp)| (*subject, stamp.as_bytes())).unzip();
    let lacking =
        sqlx::query_scalar(schema.sql(&SELECT_NEWEST_MISSING_STAMP)).bind(subjects).bind(stamps);
    let lacking: Option<Vec<u8>> = lacking
        .fetch_optional(&mut **tx)
        .await
        .map_err(Error::at("look for events in the inbox"))?;
    Ok(lacking.and_then(|bytes| Stamp::from_bytes(&bytes)))
}

/// Notes that not all that happened until then is in the inbox.
pub async fn record_removal(
    tx: &mut Tx,
    schema: &Schema,
    until: DateTime<Utc>,
) -> Result<(), Error> {
    let noted = sqlx::query(schema.sql(&RECORD_REMOVAL)).bind(until).execute(&mut **tx).await;
    noted.map(|_| ()).map_err(Error::at("note what the inbox lacks"))
}

/// Which of `events` the inbox knows: a look at keys alone, which spares the way of all the rest.
async fn select_known_keys(
    tx: &mut Tx,
    schema: &Schema,
    events: &[(&Record, &Event)],
) -> Result<HashSet<Uuid>, Error> {
    let keys: Vec<Uuid> = events.iter().map(|(_, event)| event.key).collect();
    let known: Vec<Uuid> = sqlx::query_scalar(schema.sql(&SELECT_KNOWN_KEYS))
        .bind(keys)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("look for events in the inbox"))?;
    Ok(known.into_iter().collect())
}

/// A user's record holds name, address and more, of which nobody here has any use but for the group; that
/// stands beside the patron.
fn stored_payload<'a>(record: &'a Record, event: &Event) -> &'a [u8] {
    match event.fact.kind() {
        Kind::StoredUser => &[],
        _ => record.payload.as_deref().unwrap_or_default(),
    }
}

#[derive(Default)]
struct Columns<'a> {
    event_key: Vec<Uuid>,
    identified_by: Vec<&'static str>,
    kind: Vec<&'static str>,
    subject: Vec<Option<Uuid>>,
    user_id: Vec<Option<Uuid>>,
    occurred_at: Vec<DateTime<Utc>>,
    timed_by: Vec<&'static str>,
    stamp: Vec<&'a [u8]>,
    topic: Vec<&'a str>,
    partition: Vec<i32>,
    offset: Vec<i64>,
    payload: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    fn from_events(events: &[(&'a Record, &'a Event)]) -> Self {
        let mut columns = Self::default();
        for (record, event) in events {
            columns.event_key.push(event.key);
            columns.identified_by.push(event.identified_by.name());
            columns.kind.push(event.fact.kind().name());
            columns.subject.push(event.fact.subject());
            columns.user_id.push(event.fact.user());
            columns.occurred_at.push(event.occurred_at);
            columns.timed_by.push(event.timed_by.name());
            columns.stamp.push(event.stamp.as_bytes());
            columns.topic.push(&record.position.topic);
            columns.partition.push(record.position.partition);
            columns.offset.push(record.position.offset);
            columns.payload.push(stored_payload(record, event));
        }
        columns
    }
}
