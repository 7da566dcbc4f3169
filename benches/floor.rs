//! The floor of ingest: bare SQL on the smallest tables that can count loans and fees/fines. Rows are
//! decoded and folded before the measurement, with one timestamp per register. The only history is an inbox
//! and a log of payloads. The floor does less than ingest; the ratio of the two is the cost of the rest.

use std::{collections::BTreeMap, time::Instant};

use chrono::{DateTime, Utc};
use patron_blocks::{
    event::{DecodeOutcome, Event, Fact, decode},
    kafka::delivery::ConsumedRecord,
    store::Db,
};
use rust_decimal::Decimal;
use sqlx::Executor;
use uuid::Uuid;

const TABLES: &str = "
    create schema floor;
    create table floor.inbox (event_id uuid primary key);
    create table floor.event_log (event_id uuid, user_id uuid, subject uuid, kind int2, occurred_at timestamptz,
      topic text, part int4, off int8, payload bytea);
    create table floor.loan (loan_id uuid primary key, user_id uuid, due_at timestamptz, due_ts timestamptz,
      state_ts timestamptz, closed bool not null, overdue_from timestamptz, prev_open int2 not null default 0);
    create index on floor.loan (user_id, overdue_from) where not closed;
    create table floor.fee (fee_id uuid primary key, user_id uuid, balance numeric, ts timestamptz,
      prev numeric not null default 0);
    create table floor.patron_counter (user_id uuid primary key, open_loans int8, fee_balance numeric);";

const INBOX: &str =
    "insert into floor.inbox select unnest($1::uuid[]) on conflict do nothing returning event_id";

const LOG: &str =
    "insert into floor.event_log select * from unnest($1::uuid[], $2::uuid[], $3::uuid[],
    $4::int2[], $5::timestamptz[], $6::text[], $7::int4[], $8::int8[], $9::bytea[])";

const MERGE: &str = "with up as (
    insert into floor.loan as t (loan_id, user_id, due_at, due_ts, state_ts, closed, overdue_from)
    select *, due_at from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[],
      $6::bool[]) x (loan_id, user_id, due_at, due_ts, state_ts, closed)
    on conflict (loan_id) do update set
      due_at = case when excluded.due_ts > t.due_ts or t.due_ts is null then excluded.due_at else t.due_at end,
      overdue_from = case when excluded.due_ts > t.due_ts or t.due_ts is null then excluded.due_at else t.overdue_from end,
      due_ts = greatest(t.due_ts, excluded.due_ts),
      closed = case when excluded.state_ts > t.state_ts then excluded.closed else t.closed end,
      state_ts = greatest(t.state_ts, excluded.state_ts),
      prev_open = (not t.closed)::int::int2
    returning t.user_id, (not t.closed)::int - t.prev_open as d_open
  ), fe as (
    insert into floor.fee as t (fee_id, user_id, balance, ts)
    select * from unnest($7::uuid[], $8::uuid[], $9::numeric[], $10::timestamptz[])
    on conflict (fee_id) do update set balance = case when excluded.ts > t.ts then excluded.balance else t.balance end,
      ts = greatest(t.ts, excluded.ts), prev = t.balance
    returning t.user_id, t.balance - t.prev as d_fee)
  insert into floor.patron_counter as p (user_id, open_loans, fee_balance)
  select user_id, sum(o), sum(f)
    from (select user_id, d_open o, 0 f from up union all select user_id, 0, d_fee from fe) z
   group by user_id having sum(o) <> 0 or sum(f) <> 0 order by user_id
  on conflict (user_id) do update set open_loans = p.open_loans + excluded.open_loans,
    fee_balance = p.fee_balance + excluded.fee_balance";

/// Creates the tables of the floor.
pub(crate) async fn make(db: &Db) {
    db.execute(TABLES).await.expect("the floor's tables");
}

/// A batch of the floor in columns, prepared before the measurement.
#[derive(Default)]
pub(crate) struct FloorBatch {
    event_id: Vec<Uuid>,
    user_id: Vec<Option<Uuid>>,
    subject: Vec<Uuid>,
    kind: Vec<i16>,
    at: Vec<DateTime<Utc>>,
    topic: Vec<String>,
    part: Vec<i32>,
    off: Vec<i64>,
    payload: Vec<Vec<u8>>,
    loans: BTreeMap<Uuid, FloorLoan>,
    fees: BTreeMap<Uuid, (Option<Uuid>, Decimal, DateTime<Utc>)>,
}

#[derive(Default)]
struct FloorLoan {
    user: Option<Uuid>,
    due_at: Option<DateTime<Utc>>,
    due_ts: Option<DateTime<Utc>>,
    state_ts: Option<DateTime<Utc>>,
    closed: bool,
}

impl FloorBatch {
    pub(crate) fn of(batch: &[ConsumedRecord]) -> Self {
        let mut events: Vec<(Event, &ConsumedRecord)> = batch
            .iter()
            .map(|incoming| {
                match decode::decode_record(&incoming.record, &incoming.topic, &incoming.cluster) {
                    DecodeOutcome::Event(_, event) => (*event, incoming),
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        events.sort_by_key(|(event, _)| event.key);
        let mut columns = Self::default();
        for (event, incoming) in events {
            columns.fold(&event);
            columns.event_id.push(event.key);
            columns.user_id.push(event.fact.user());
            columns.subject.push(event.fact.subject().unwrap_or_default());
            columns.kind.push(event.fact.kind() as i16);
            columns.at.push(event.occurred_at);
            columns.topic.push(incoming.record.position.topic.to_string());
            columns.part.push(incoming.record.position.partition);
            columns.off.push(incoming.record.position.offset);
            columns.payload.push(incoming.record.payload.clone().expect("a payload"));
        }
        columns
    }

    fn fold(&mut self, event: &Event) {
        let at = event.occurred_at;
        match &event.fact {
            Fact::BalanceChanged { fee_fine, user, balance, .. } => {
                self.fees.insert(*fee_fine, (*user, *balance, at));
            }
            fact => {
                let loan = self.loans.entry(fact.subject().unwrap_or_default()).or_default();
                loan.user = fact.user();
                let closes = matches!(fact, Fact::CheckedIn { .. } | Fact::LoanClosed { .. });
                if loan.state_ts.is_none_or(|known| at >= known) {
                    loan.state_ts = Some(at);
                    loan.closed |= closes;
                }
                if let Fact::CheckedOut { due_date, .. } | Fact::DueDateChanged { due_date, .. } =
                    fact
                    && loan.due_ts.is_none_or(|known| at > known)
                {
                    (loan.due_ts, loan.due_at) = (Some(at), Some(*due_date));
                }
            }
        }
    }
}

/// Returns the events per second of one writer.
pub(crate) async fn rate(db: &Db, batches: &[FloorBatch]) -> f64 {
    let start = Instant::now();
    for b in batches {
        let mut tx = db.begin().await.expect("a transaction");
        sqlx::query(INBOX).bind(&b.event_id).fetch_all(&mut *tx).await.expect("inbox");
        sqlx::query(LOG)
            .bind(&b.event_id)
            .bind(&b.user_id)
            .bind(&b.subject)
            .bind(&b.kind)
            .bind(&b.at)
            .bind(&b.topic)
            .bind(&b.part)
            .bind(&b.off)
            .bind(&b.payload)
            .execute(&mut *tx)
            .await
            .expect("log");
        let loans = || b.loans.values();
        sqlx::query(MERGE)
            .bind(b.loans.keys().copied().collect::<Vec<_>>())
            .bind(loans().map(|l| l.user).collect::<Vec<_>>())
            .bind(loans().map(|l| l.due_at).collect::<Vec<_>>())
            .bind(loans().map(|l| l.due_ts).collect::<Vec<_>>())
            .bind(loans().map(|l| l.state_ts).collect::<Vec<_>>())
            .bind(loans().map(|l| l.closed).collect::<Vec<_>>())
            .bind(b.fees.keys().copied().collect::<Vec<_>>())
            .bind(b.fees.values().map(|f| f.0).collect::<Vec<_>>())
            .bind(b.fees.values().map(|f| f.1).collect::<Vec<_>>())
            .bind(b.fees.values().map(|f| f.2).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await
            .expect("merge");
        tx.commit().await.expect("commit");
    }
    let events: usize = batches.iter().map(|batch| batch.event_id.len()).sum();
    events as f64 / start.elapsed().as_secs_f64()
}
