//! A library inserted directly into the tables: ordinary patrons, and one patron with many loans.

use patron_blocks::{blocks::Measure, store::Db};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::fixture::{patron, schema};

/// The open loans of an ordinary patron; each also has one closed loan.
const LOANS: u32 = 5;

/// The open loans of the patron with many loans.
pub(crate) const MANY: u32 = 2_000;

/// The SQL expression for the id of the ordinary patron `n`.
pub(crate) const USER: &str =
    "('00000000-0000-4000-8000-' || lpad(to_hex(cast(n as int8)), 12, '0'))::uuid";

/// The statements that fill the tables. One loan in ten is overdue, and half of the overdue loans are
/// recalled.
const FILL: [&str; 4] = [
    "insert into {schema}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date,
       due_stamp, changed_due_date, due_by_recall, closed_stamp)
     select gen_random_uuid(), {stamp}, user_id, due, case when recall then {stamp} end,
       case when recall then due end, case when recall then true end,
       case when closed then '\\x00000000000000020000000000000000'::bytea end
       from (select *, loan % 20 = 0 as recall,
                    now() + case when loan % 10 = 0 then interval '-3 days' else interval '7 days' end as due
               from (select {user} as user_id, n * {loans} + k as loan, closed
                       from generate_series(0, {patrons} - 1) n, generate_series(1, {loans}) k,
                            (values (true), (false)) c (closed)
                      where k = 1 or not closed
                     union all
                     select '{reader}', k, false from generate_series(1, {many}) k) numbered) loans",
    "insert into {schema}.patron_counter (user_id, open_loans, lost_loans, claimed_returned_loans,
       recalled_loans, open_fees_fines, fee_fine_balance)
     select user_id, count(*), 0, 0, count(*) filter (where recall), 0, 0
       from {schema}.loan where is_open group by user_id",
    "insert into {schema}.patron (user_id, users_group, users_group_at)
     select user_id, '{group}', now() from {schema}.patron_counter",
    "update {schema}.patron_block_conditions set jsonb = jsonb ||
       '{\"blockBorrowing\": true, \"blockRenewals\": true, \"blockRequests\": true, \"message\": \"Too many\"}'",
];

/// Returns the patron with [`MANY`] open loans.
pub(crate) fn many_loans_patron() -> Uuid {
    patron(1 << 42)
}

/// Fills the tenant's tables, with six limits near the patrons' measures.
pub(crate) async fn fill(db: &Db, patrons: u64) {
    let group = patron(1 << 41).to_string();
    let mut connection = db.acquire().await.expect("a connection");
    // The insertion of a million patrons takes longer than the service's statement timeout.
    connection
        .execute("set statement_timeout = 0")
        .await
        .expect("the connection accepts the statement");
    for sql in FILL {
        let sql = [
            ("{user}", USER),
            ("{schema}", schema().name()),
            ("{stamp}", "'\\x00000000000000010000000000000000'::bytea"),
            ("{reader}", &many_loans_patron().to_string()),
            ("{group}", &group),
            ("{loans}", &LOANS.to_string()),
            ("{many}", &MANY.to_string()),
            ("{patrons}", &patrons.to_string()),
        ]
        .into_iter()
        .fold(sql.to_owned(), |sql, (name, value)| sql.replace(name, value));
        connection.execute(AssertSqlSafe(sql)).await.expect("rows");
    }
    for measure in Measure::ALL {
        let sql = format!(
            "insert into {}.patron_block_limits (id, jsonb, conditionid) values ($1, $2, $3)",
            schema().name()
        );
        let (id, condition) = (Uuid::new_v4(), measure.condition_id());
        let limit = serde_json::json!({
            "id": id, "patronGroupId": group, "conditionId": condition, "value": 4 });
        let insert = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(limit).bind(condition);
        insert.execute(db).await.expect("a limit");
    }
    for sql in ["vacuum analyze", "checkpoint"] {
        connection.execute(sql).await.expect("the database accepts the statement");
    }
}
