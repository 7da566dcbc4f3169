//! Dead letters: the bytes, headers and position of records that could not be applied, with the reason.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    cql::Query,
    event::{Record, RecordPosition, Reject, TenantId, is_secret, uuids_in},
    store::{
        Error, Schema, Statement, Tx,
        search::{Field, SearchBuilder, SearchTarget},
    },
};

const INSERT: Statement = Statement::new(
    r#"insert into {schema}.dead_letter (
         dead_letter_id, reason, field, rule, topic, partition, "offset", record_at, key, headers,
         payload, cluster, subjects, received_at)
       select x.dead_letter_id, x.reason, x.field, x.rule, x.topic, x.partition, x."offset", x.record_at,
              x.key, x.headers, x.payload, x.cluster, x.subjects::uuid[], now()
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int4[],
                     $7::int8[], $8::timestamptz[], $9::bytea[], $10::jsonb[], $11::bytea[],
                     $12::text[], $13::text[])
           as x (dead_letter_id, reason, field, rule, topic, partition, "offset", record_at, key, headers,
                 payload, cluster, subjects)
       on conflict (dead_letter_id) do nothing"#,
);

const SELECT: Statement = Statement::new(
    r#"select dead_letter_id, reason, field, rule, topic, partition, "offset", record_at, received_at,
              key, headers, payload, cluster
         from {schema}.dead_letter where dead_letter_id = $1"#,
);

/// Deletes from both schemas, because a dead letter without a known tenant may turn out to belong to a
/// tenant.
const DELETE_APPLIED: Statement = Statement::new(
    "with module_row as (delete from mod_patron_blocks.dead_letter where dead_letter_id = $1)
     delete from {schema}.dead_letter where dead_letter_id = $1",
);

const SELECT_BY_SUBJECT: Statement = Statement::new(
    r#"select dead_letter_id, reason, field, rule, topic, partition, "offset", record_at, received_at,
              octet_length(payload)::int8 as payload_bytes
         from {schema}.dead_letter where subjects && $1 order by received_at desc limit $2"#,
);

/// Counts the dead letters of each of the last 24 hours that has some; 0 is the current hour.
const COUNT_BY_HOUR: Statement = Statement::new(
    "select floor(extract(epoch from now() - received_at) / 3600)::int8 as hours_ago, count(*)
       from {schema}.dead_letter
      where received_at > now() - interval '24 hours' and received_at <= now() group by 1",
);

pub(in crate::store) const STATEMENTS: &[&Statement] =
    &[&INSERT, &SELECT, &DELETE_APPLIED, &SELECT_BY_SUBJECT, &COUNT_BY_HOUR];

/// The search over dead letters, ordered by id. The order of ids is independent of time.
pub static SEARCH_TARGET: SearchTarget =
    SearchTarget { table: "{schema}.dead_letter", order: "dead_letter_id", fields: &FIELDS };

/// The search over dead letters, newest first.
pub static NEWEST_FIRST: SearchTarget =
    SearchTarget { order: "received_at desc, dead_letter_id", ..SEARCH_TARGET };

const FIELDS: [Field; 9] = [
    Field::keyword("id", "dead_letter_id::text"),
    Field::keyword("reason", "reason"),
    Field::keyword("field", "field"),
    Field::full_text("rule", "rule"),
    Field::keyword("topic", "topic"),
    Field::number("partition", "partition::text", "partition"),
    Field::number("offset", r#""offset"::text"#, r#""offset""#),
    // The date format of docs/contract/http-api.md#13-dates.
    Field::keyword(
        "recordAt",
        r#"to_char(record_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS+00:00')"#,
    ),
    Field::keyword(
        "receivedAt",
        r#"to_char(received_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS+00:00')"#,
    ),
];

/// A record to store as a dead letter.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The id, derived from the record's position, so a redelivery inserts no second dead letter.
    pub id: Uuid,
    /// The record.
    pub record: &'a Record,
    /// The id of the Kafka cluster that the position belongs to.
    pub cluster: &'a str,
    /// The reason of the rejection.
    pub reject: &'a Reject,
}

/// Inserts dead letters and returns the number of new dead letters.
pub async fn insert(
    tx: &mut Tx,
    schema: &Schema,
    letters: &[DeadLetter<'_>],
) -> Result<u64, Error> {
    let column = |of: fn(&DeadLetter<'_>) -> Value| letters.iter().map(of).collect::<Vec<_>>();
    let done = sqlx::query(schema.sql(&INSERT))
        .bind(letters.iter().map(|l| l.id).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.reject.reason.name()).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.reject.field).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.reject.rule.as_str()).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| &*l.record.position.topic).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.record.position.partition).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.record.position.offset).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.record.timestamp).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.record.key.as_deref()).collect::<Vec<_>>())
        .bind(column(|l| headers(l.record)))
        .bind(
            letters
                .iter()
                .map(|l| l.record.payload.as_deref().unwrap_or_default())
                .collect::<Vec<_>>(),
        )
        .bind(letters.iter().map(|l| l.cluster).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| subjects(l.record)).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("insert dead letters"))?;
    Ok(done.rows_affected())
}

fn headers(record: &Record) -> Value {
    let visible = record.headers.iter().filter(|(name, _)| !is_secret(name));
    // The type `jsonb` cannot contain a NUL character.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    visible.map(|(name, value)| json!([text(name.as_bytes()), text(value)])).collect()
}

/// Largest number of ids that a dead letter names.
const SUBJECTS_MAX: usize = 20;

/// Returns the UUIDs in key and value as the text of an array.
fn subjects(record: &Record) -> String {
    let sources = record.key.iter().chain(&record.payload);
    let mut found: Vec<Uuid> = Vec::new();
    for uuid in sources.flat_map(|bytes| uuids_in(bytes)) {
        if !found.contains(&uuid) {
            found.push(uuid);
        }
        if found.len() >= SUBJECTS_MAX {
            break;
        }
    }
    let list: Vec<String> = found.iter().map(Uuid::to_string).collect();
    format!("{{{}}}", list.join(","))
}

/// Returns the number of records that wait for a tenant with unwritable tables, counted up to `bound`.
pub async fn count_waiting(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    bound: i64,
) -> Result<i64, Error> {
    sqlx::query_scalar(
        "select count(*) from (
           select from mod_patron_blocks.dead_letter where tenant = $1 limit $2) waiting",
    )
    .bind(tenant.as_str())
    .bind(bound)
    .fetch_one(db)
    .await
    .map_err(Error::at("count waiting dead letters"))
}

/// Records that dead letters wait for a tenant. The service retries these dead letters.
pub async fn set_waiting_tenant(tx: &mut Tx, tenant: &TenantId, ids: &[Uuid]) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.dead_letter set tenant = $1 where dead_letter_id = any($2)",
    )
    .bind(tenant.as_str())
    .bind(ids)
    .execute(&mut **tx)
    .await
    .map_err(Error::at("record the tenant of waiting dead letters"))?;
    Ok(())
}

/// Returns the tenants with waiting records.
pub async fn list_waiting_tenants(db: impl PgExecutor<'_>) -> Result<Vec<TenantId>, Error> {
    let tenants: Vec<String> = sqlx::query_scalar(
        "select distinct tenant from mod_patron_blocks.dead_letter where tenant is not null",
    )
    .fetch_all(db)
    .await
    .map_err(Error::at("list the tenants of waiting dead letters"))?;
    Ok(tenants.iter().filter_map(|tenant| TenantId::parse(tenant)).collect())
}

/// Returns the ids of the next records that wait for a tenant, after `after` in id order.
pub async fn list_waiting_ids(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, Error> {
    sqlx::query_scalar(
        "select dead_letter_id from mod_patron_blocks.dead_letter
          where tenant = $1 and dead_letter_id > $2 order by dead_letter_id limit $3",
    )
    .bind(tenant.as_str())
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await
    .map_err(Error::at("list the waiting dead letters of a tenant"))
}

/// Leaves a waiting record to operators, because the record cannot be applied although the tenant's
/// tables are writable.
pub async fn clear_waiting_tenant(
    db: impl PgExecutor<'_>,
    id: Uuid,
    reject: &Reject,
) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.dead_letter
            set tenant = null, reason = $2, field = $3, rule = $4 where dead_letter_id = $1",
    )
    .bind(id)
    .bind(reject.reason.name())
    .bind(reject.field)
    .bind(&reject.rule)
    .execute(db)
    .await
    .map_err(Error::at("end the wait of a dead letter"))?;
    Ok(())
}

/// A dead letter as stored.
#[derive(Debug, Clone)]
pub struct StoredDeadLetter {
    /// The id of the dead letter.
    pub id: Uuid,
    /// The reason: [`crate::event::Reason::name`].
    pub reason: String,
    /// The member or header that breaks the rule.
    pub field: Option<String>,
    /// The broken rule.
    pub rule: String,
    /// The time of storage.
    pub received_at: DateTime<Utc>,
    /// The id of the Kafka cluster that the position belongs to.
    pub cluster: String,
    /// The record, without tokens.
    pub record: Record,
}

#[derive(sqlx::FromRow)]
struct Row {
    dead_letter_id: Uuid,
    reason: String,
    field: Option<String>,
    rule: String,
    topic: String,
    partition: i32,
    offset: i64,
    record_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    key: Option<Vec<u8>>,
    headers: sqlx::types::Json<Vec<(String, String)>>,
    payload: Vec<u8>,
    cluster: String,
}

impl From<Row> for StoredDeadLetter {
    fn from(row: Row) -> Self {
        let headers = row.headers.0.into_iter();
        Self {
            id: row.dead_letter_id,
            reason: row.reason,
            field: row.field,
            rule: row.rule,
            received_at: row.received_at,
            cluster: row.cluster,
            record: Record {
                position: RecordPosition {
                    topic: row.topic.into(),
                    partition: row.partition,
                    offset: row.offset,
                },
                timestamp: row.record_at,
                key: row.key,
                headers: headers.map(|(name, value)| (name, value.into_bytes())).collect(),
                payload: Some(row.payload),
            },
        }
    }
}

/// A dead letter in a list, without its bytes, which may be megabytes.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeadLetterHead {
    /// The id of the dead letter.
    #[sqlx(rename = "dead_letter_id")]
    pub id: Uuid,
    /// The reason: [`crate::event::Reason::name`].
    pub reason: String,
    /// The member or header that breaks the rule.
    pub field: Option<String>,
    /// The broken rule.
    pub rule: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The record's timestamp.
    pub record_at: Option<DateTime<Utc>>,
    /// The time of storage.
    pub received_at: DateTime<Utc>,
    /// The length of the payload in bytes.
    pub payload_bytes: i64,
}

impl StoredDeadLetter {
    /// Returns the dead letter without its bytes.
    pub fn head(&self) -> DeadLetterHead {
        let Self { id, reason, field, rule, received_at, record, .. } = self.clone();
        let payload = record.payload.as_deref().unwrap_or_default().len();
        DeadLetterHead {
            id,
            reason,
            field,
            rule,
            topic: record.position.topic.to_string(),
            partition: record.position.partition,
            offset: record.position.offset,
            record_at: record.timestamp,
            received_at,
            payload_bytes: i64::try_from(payload).unwrap_or(i64::MAX),
        }
    }
}

/// Returns a page of the dead letters that match a query, by id and only ids greater than `after` if given.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    query: &Query,
    after: Option<Uuid>,
    range: (i64, i64),
) -> Result<Vec<DeadLetterHead>, Error> {
    search(db, schema, &SEARCH_TARGET, query, after, range).await
}

/// Returns a page of the dead letters that match a query, newest first.
pub async fn list_newest(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    query: &Query,
    range: (i64, i64),
) -> Result<Vec<DeadLetterHead>, Error> {
    search(db, schema, &NEWEST_FIRST, query, None, range).await
}

async fn search(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    target: &SearchTarget,
    query: &Query,
    after: Option<Uuid>,
    (offset, limit): (i64, i64),
) -> Result<Vec<DeadLetterHead>, Error> {
    let mut search = SearchBuilder::default();
    search.push(
        r#"select dead_letter_id, reason, field, rule, topic, partition, "offset", record_at,
                  received_at, octet_length(payload)::int8 as payload_bytes
             from {schema}.dead_letter where "#,
    );
    search.condition(target, &query.condition);
    if let Some(after) = after {
        search.push(" and dead_letter_id > ").bind(after);
    }
    search.order(target, &query.sort);
    search.push(" offset ").bind(offset).push(" limit ").bind(limit);
    sqlx::query_as_with(schema.composed(&search.text), search.values)
        .persistent(false)
        .fetch_all(db)
        .await
        .map_err(Error::at("list dead letters"))
}

/// Returns one dead letter.
pub async fn find(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
) -> Result<Option<StoredDeadLetter>, Error> {
    let row: Option<Row> = sqlx::query_as(schema.sql(&SELECT))
        .bind(id)
        .fetch_optional(db)
        .await
        .map_err(Error::at("find a dead letter"))?;
    Ok(row.map(StoredDeadLetter::from))
}

/// Returns the newest dead letters that name one of these ids.
pub async fn list_by_subject(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    subjects: &[Uuid],
    limit: i64,
) -> Result<Vec<DeadLetterHead>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_BY_SUBJECT)).bind(subjects).bind(limit);
    found.fetch_all(db).await.map_err(Error::at("list the dead letters of a loan or fee/fine"))
}

/// Number of hours that [`count_by_hour`] covers.
const HOURS: usize = 24;

/// Returns the number of dead letters that were stored in each of the last 24 hours, oldest hour first.
pub async fn count_by_hour(
    db: impl PgExecutor<'_>,
    schema: &Schema,
) -> Result<[i64; HOURS], Error> {
    let counts: Vec<(i64, i64)> = sqlx::query_as(schema.sql(&COUNT_BY_HOUR))
        .fetch_all(db)
        .await
        .map_err(Error::at("count the dead letters of a day"))?;
    let mut hours = [0; HOURS];
    for (hours_ago, count) in counts {
        let slot = usize::try_from(hours_ago).ok().and_then(|ago| HOURS.checked_sub(ago + 1));
        if let Some(slot) = slot {
            hours[slot] = count;
        }
    }
    Ok(hours)
}

/// Deletes a dead letter after a retry applied the record.
pub async fn delete_applied(tx: &mut Tx, schema: &Schema, id: Uuid) -> Result<(), Error> {
    sqlx::query(schema.sql(&DELETE_APPLIED))
        .bind(id)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("delete an applied dead letter"))?;
    Ok(())
}
