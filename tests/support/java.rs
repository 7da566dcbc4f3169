//! The tables of the Java module of the same name: a schema in one of its layouts, with a fictional
//! library.

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::store::{Db, Schema};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::support::payloads::now;

/// The table layouts of the Java module's versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Before 1.4.0: no closed loans, no versions of summaries.
    Early,
    /// From 1.4.0 on.
    Late,
}

/// Rows per insert.
const CHUNK_ROWS: usize = 5000;

/// Creates the tables, without rows.
pub(crate) async fn create_tables(db: &Db, schema: &Schema, layout: Layout) {
    execute_sql(db, schema, include_str!("../fixtures/java.sql")).await;
    if layout == Layout::Late {
        execute_sql(db, schema, include_str!("../fixtures/java_since_1_4.sql")).await;
    }
}

/// Creates the views of a reporting module.
pub(crate) async fn create_report_views(db: &Db, schema: &Schema) {
    execute_sql(db, schema, include_str!("../fixtures/reports.sql")).await;
}

/// Executes SQL in the schema.
pub(crate) async fn execute_sql(db: &Db, schema: &Schema, sql: &str) {
    let sql = sql.replace("{schema}", schema.name());
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await.expect("the SQL statement succeeds");
}

/// Inserts rows into a table as the Java module does.
pub(crate) async fn insert_rows(db: &Db, schema: &Schema, table: &str, rows: &[Value]) {
    let sql = format!(
        "insert into {}.{table} (id, jsonb) select * from unnest($1::uuid[], $2::jsonb[])",
        schema.name()
    );
    for rows in rows.chunks(CHUNK_ROWS) {
        let id =
            |row: &Value| row["id"].as_str().map_or_else(Uuid::new_v4, |id| id.parse().unwrap());
        let ids: Vec<Uuid> = rows.iter().map(id).collect();
        let insert = sqlx::query(AssertSqlSafe(&*sql)).bind(ids).bind(rows);
        db.execute(insert).await.expect("the rows can be inserted");
    }
}

pub(crate) fn java_timestamp(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

/// Returns the instant this number of days ago, in whole milliseconds.
pub(crate) fn days_ago(days: i64) -> DateTime<Utc> {
    let at = now() - TimeDelta::days(days);
    DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap()
}

/// Returns the row of an event that the Java module received at this instant.
pub(crate) fn with_dates(at: DateTime<Utc>, mut payload: Value) -> Value {
    payload["metadata"] =
        json!({ "createdDate": java_timestamp(at), "updatedDate": java_timestamp(at) });
    payload
}

/// A patron of the fictional library, identified by a number: some have loans, some fees/fines, some
/// nothing open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patron(pub(crate) usize);

impl Patron {
    fn derived_id(self, what: &str) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{what} of patron {}", self.0).as_bytes())
    }

    pub(crate) fn user(self) -> Uuid {
        self.derived_id("self")
    }

    pub(crate) fn summary_id(self) -> Uuid {
        self.derived_id("summary")
    }

    pub(crate) fn loans(self) -> Vec<Uuid> {
        (0..self.0 % 5).map(|loan| self.derived_id(&format!("loan {loan}"))).collect()
    }

    /// Returns the id of a loan that ended.
    pub(crate) fn past_loan(self) -> Uuid {
        self.derived_id("past loan")
    }

    /// Returns the id of a fee/fine that every third patron owes, and that all others have paid.
    pub(crate) fn fee(self) -> Uuid {
        self.derived_id("fee")
    }

    pub(crate) fn owes(self) -> bool {
        self.0.is_multiple_of(3)
    }

    pub(crate) fn has_anything(self) -> bool {
        self.owes() || !self.loans().is_empty()
    }

    fn is_lost(self, loan: usize) -> bool {
        loan == 1 && self.0.is_multiple_of(11)
    }

    fn is_claimed(self, loan: usize) -> bool {
        loan == 2 && self.0.is_multiple_of(13)
    }

    fn is_overdue(self, loan: usize) -> bool {
        loan == 0 && self.0.is_multiple_of(7)
    }

    /// Returns the summary as the Java module stored it.
    pub(crate) fn summary(self) -> Value {
        let loan = |(n, id): (usize, Uuid)| {
            json!({
                "loanId": id,
                "dueDate": java_timestamp(if self.is_overdue(n) { days_ago(3) } else { days_ago(-1) }),
                "recall": false, "itemLost": self.is_lost(n),
                "itemClaimedReturned": self.is_claimed(n),
                "gracePeriod": { "duration": 2, "intervalId": "Days" },
            })
        };
        let fee = json!({ "feeFineId": self.fee(), "feeFineTypeId": self.derived_id("type"), "balance": 6 });
        json!({
            "id": self.summary_id(), "userId": self.user(),
            "openLoans": self.loans().into_iter().enumerate().map(loan).collect::<Vec<_>>(),
            "openFeesFines": if self.owes() { vec![fee] } else { Vec::new() },
        })
    }

    /// Returns the blocks under the four limits of the story: three charged out, none lost, none
    /// overdue, 5 owed.
    pub(crate) fn blocks(self) -> Vec<[bool; 3]> {
        let count = |is: &dyn Fn(usize) -> bool| {
            (0..self.loans().len()).filter(|n| !self.is_claimed(*n) && is(*n)).count()
        };
        let mut blocks = Vec::new();
        match count(&|_| true) {
            3 => blocks.push([true, false, false]),
            charged_out if charged_out > 3 => blocks.push([true; 3]),
            _ => {}
        }
        let others =
            [count(&|n| self.is_lost(n)) > 0, count(&|n| self.is_overdue(n)) > 0, self.owes()];
        blocks.extend(others.into_iter().filter(|blocked| *blocked).map(|_| [true; 3]));
        blocks
    }
}

/// Inserts a library of this many patrons: the open records, and the events of the last days.
pub(crate) async fn fill(db: &Db, schema: &Schema, patrons: usize) {
    let all = || (0..patrons).map(Patron);
    let summaries: Vec<Value> = all().filter(|p| p.has_anything()).map(Patron::summary).collect();
    insert_rows(db, schema, "user_summary", &summaries).await;
    let about = |p: Patron, loan| json!({ "userId": p.user(), "loanId": loan });
    let check_out = |p: Patron, loan| with_dates(days_ago(5), about(p, loan));
    let check_outs: Vec<Value> = all()
        .flat_map(|p| p.loans().into_iter().chain([p.past_loan()]).map(move |loan| (p, loan)))
        .map(|(p, loan)| check_out(p, loan))
        .collect();
    insert_rows(db, schema, "item_checked_out_event", &check_outs).await;
    let check_ins: Vec<Value> =
        all().map(|p| with_dates(days_ago(3), about(p, p.past_loan()))).collect();
    insert_rows(db, schema, "item_checked_in_event", &check_ins).await;
    let balance = |p: Patron| {
        let balance = if p.owes() { 6.0 } else { 0.0 };
        json!({ "userId": p.user(), "feeFineId": p.fee(), "balance": balance })
    };
    let balances: Vec<Value> = all().map(|p| with_dates(days_ago(2), balance(p))).collect();
    insert_rows(db, schema, "fee_fine_balance_changed_event", &balances).await;
}
