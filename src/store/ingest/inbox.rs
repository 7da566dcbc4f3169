//! The inbox: the table of all applied events. The transaction that applies an event also claims the
//! event (invariant I3 of ARCHITECTURE.md).

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    event::{Event, Kind, Record, Stamp, TenantId, decode::inbox_row::InboxRow},
    store::{Error, Schema, Statement, Tx},
};

/// The database clock sets `received_at`, because several instances compare the value. Several `unnest`
/// calls in the select list return the array elements directly; `from unnest(…, …)` would first
/// materialise each array.
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

/// Selects events in key order. A page may miss an event that the inbox received after the start of
/// reading.
const SELECT_PAGE: Statement = Statement::new(
    "select event_key as key, identified_by, kind, stamp, occurred_at, timed_by, payload
       from {schema}.inbox where event_key > $1 order by event_key limit $2",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &CLAIM,
    &SELECT_PAGE,
    &SELECT_KNOWN_KEYS,
    &SELECT_EXTENT,
    &SELECT_NEWEST_MISSING_STAMP,
    &RECORD_REMOVAL,
];

/// The expected novelty of a batch of events. The hint changes the duration of a claim and leaves the
/// result the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimHint {
    /// Most events are new.
    New,
    /// Most events are already in the inbox, because a log is read again.
    Replay,
}

/// Claims `events` and returns the keys of the new events. A key that occurs twice in the batch is
/// returned once.
pub async fn claim(
    tx: &mut Tx,
    schema: &Schema,
    events: &[(&Record, &Event)],
    hint: ClaimHint,
) -> Result<HashSet<Uuid>, Error> {
    let mut sorted: Vec<_> = events.to_vec();
    // Key order prevents a deadlock between two writers that claim the same events.
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

/// The period for which the inbox contains a tenant's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct InboxExtent {
    /// The time up to which events may have been removed; `None` if no event was ever removed. Triggers
    /// record the time.
    pub removed_until: Option<DateTime<Utc>>,
    /// The start of the tenant's current enabling. Ingest skipped earlier records of the tenant in topics
    /// of tenant collections.
    pub enabled_at: DateTime<Utc>,
}

impl InboxExtent {
    /// Returns the time since when the inbox contains every event that was received or occurred, and was
    /// applied.
    pub fn complete_since(&self) -> DateTime<Utc> {
        self.removed_until.map_or(self.enabled_at, |gone| gone.max(self.enabled_at))
    }
}

/// Returns the extent of the inbox, or `None` if the tenant is unknown.
pub async fn load_extent(
    tx: &mut Tx,
    schema: &Schema,
    tenant: &TenantId,
) -> Result<Option<InboxExtent>, Error> {
    let extent = sqlx::query_as(schema.sql(&SELECT_EXTENT)).bind(tenant.as_str());
    let extent = extent.fetch_optional(&mut **tx).await;
    extent.map_err(Error::at("read the extent of the inbox"))
}

/// Returns the newest of `stamps` that no event in the inbox has. Each stamp belongs to a loan or
/// fee/fine.
pub async fn newest_missing_stamp(
    tx: &mut Tx,
    schema: &Schema,
    stamps: &[(Uuid, Stamp)],
) -> Result<Option<Stamp>, Error> {
    let (subjects, stamps): (Vec<Uuid>, Vec<&[u8]>) =
        stamps.iter().map(|(subject, stamp)| (*subject, stamp.as_bytes())).unzip();
    let lacking =
        sqlx::query_scalar(schema.sql(&SELECT_NEWEST_MISSING_STAMP)).bind(subjects).bind(stamps);
    let lacking: Option<Vec<u8>> =
        lacking.fetch_optional(&mut **tx).await.map_err(Error::at("find events in the inbox"))?;
    Ok(lacking.and_then(|bytes| Stamp::from_bytes(&bytes)))
}

/// Records that the inbox may lack events up to `until`.
pub async fn record_removal(
    tx: &mut Tx,
    schema: &Schema,
    until: DateTime<Utc>,
) -> Result<(), Error> {
    let noted = sqlx::query(schema.sql(&RECORD_REMOVAL)).bind(until).execute(&mut **tx).await;
    noted.map(|_| ()).map_err(Error::at("record the removal of events from the inbox"))
}

/// Returns the keys of `events` that the inbox contains. The query sends only keys, without the other
/// columns.
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
        .map_err(Error::at("find events in the inbox"))?;
    Ok(known.into_iter().collect())
}

/// Returns the payload to store. A user record contains name, address and more personal data, so its
/// payload is dropped. The service needs only the patron group, which is stored in the patron's row.
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

/// The columns of an event, in the order of its statements.
pub(super) type InboxColumns = (Uuid, String, String, Vec<u8>, DateTime<Utc>, String, Vec<u8>);

/// Converts the columns of an event.
pub(super) fn from_columns(
    (key, identified_by, kind, stamp, occurred_at, timed_by, payload): InboxColumns,
) -> InboxRow {
    InboxRow { key, identified_by, kind, stamp, occurred_at, timed_by, payload }
}

/// Loads the next events of the inbox after a key, at most `most`.
pub async fn page(
    tx: &mut Tx,
    schema: &Schema,
    after: Uuid,
    most: i64,
) -> Result<Vec<InboxRow>, Error> {
    let rows =
        sqlx::query_as(schema.sql(&SELECT_PAGE)).bind(after).bind(most).fetch_all(&mut **tx).await;
    let rows: Vec<InboxColumns> = rows.map_err(Error::at("read the inbox"))?;
    Ok(rows.into_iter().map(from_columns).collect())
}
