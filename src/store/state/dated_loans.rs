//! The patrons whom time alone may block, with their loans, in pages for forecasts.
//!
//! The index `loan_open` lists the open loans by patron and overdue time, so a page reads one range of it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::patrons::{PatronState, StateRow, uncounted_fees};
use crate::{
    blocks::DatedLoan,
    store::{Connection, Error, Schema, Statement},
};

/// Open loans per page. The last patron of a page may have more.
const PAGE_LOANS: i64 = 1_000;

/// Loans of a patron that a page contains, earliest overdue first.
const PATRON_LOANS_MAX: i32 = 10_000;

/// Selects the patron with the last loan of a page; no row for the last page.
const SELECT_PAGE_END: Statement = Statement::new(
    "select user_id from {schema}.loan where is_open and user_id > $1
      order by user_id offset $2 limit 1",
);

/// Selects the patrons of a page with a loan that time alone may change: it becomes overdue after `$3` and at
/// the latest at `$4`, or it is recalled and overdue at `$4`. The arrays have one element per loan that is
/// overdue at `$4`, in the order of the subquery. The other columns are those of `patrons.rs`.
const SELECT_PAGE: Statement = Statement::new(concat!(
    "with dated as (
       select user_id, count(*) filter (where overdue_from <= $3) as overdue,
              count(*) filter (where recall and overdue_from <= $3) as overdue_recalls,
              min(due_date) filter (where recall and overdue_from <= $3) as first_recall_due,
              (array_agg(due_date))[:$5] as due_dates,
              (array_agg(overdue_from))[:$5] as overdue_from,
              (array_agg(recall))[:$5] as recalls
         from (select user_id, overdue_from, due_date, recall from {schema}.loan
                where is_open and not claimed_returned and user_id > $1 and user_id <= $2
                  and overdue_from <= $4
                order by user_id, overdue_from) l
        group by user_id
       having bool_or(recall or overdue_from > $3))
     select d.user_id, d.due_dates, d.overdue_from, d.recalls,
            c.open_loans::int8, c.open_fees_fines::int8,
            (c.open_loans - c.claimed_returned_loans)::int8 as charged_out,
            c.lost_loans::int8 as lost, d.overdue, d.overdue_recalls, d.first_recall_due,
            c.fee_fine_balance - coalesce(x.uncounted, 0) as fee_fine_balance,
            p.users_group, p.users_group_at, p.topic_group, p.topic_group_at, now() as read_at
       from dated d
       join {schema}.patron_counter c on c.user_id = d.user_id
       ",
    uncounted_fees!(),
    "
       left join {schema}.patron p on p.user_id = d.user_id",
));

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&SELECT_PAGE_END, &SELECT_PAGE];

/// A patron with a loan that time alone may change.
#[derive(Debug, Clone, PartialEq)]
pub struct DatedPatron {
    /// The patron.
    pub user: Uuid,
    /// The patron's state at the start of the forecast.
    pub state: PatronState,
    /// The loans that are overdue at the end of the forecast, earliest first.
    pub loans: Vec<DatedLoan>,
}

/// The patrons of one page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The patrons, in any order.
    pub patrons: Vec<DatedPatron>,
    /// The patron after whom the next page begins; `None` after the last page.
    pub last: Option<Uuid>,
}

#[derive(sqlx::FromRow)]
struct Row {
    user_id: Uuid,
    due_dates: Vec<DateTime<Utc>>,
    overdue_from: Vec<DateTime<Utc>>,
    recalls: Vec<bool>,
    #[sqlx(flatten)]
    state: StateRow,
}

impl Row {
    fn into_patron(self, now: DateTime<Utc>) -> DatedPatron {
        let dates = self.due_dates.into_iter().zip(self.overdue_from).zip(self.recalls);
        let loan =
            |((due_date, overdue_from), recall)| DatedLoan { due_date, overdue_from, recall };
        let loans = dates.map(loan).collect();
        DatedPatron { user: self.user_id, state: self.state.into_state(now), loans }
    }
}

/// Loads the page after the patron `after`, for a forecast from `now` to `until`.
pub async fn load_page(
    connection: &mut Connection,
    schema: &Schema,
    after: Uuid,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Page, Error> {
    let last: Option<Uuid> = sqlx::query_scalar(schema.sql(&SELECT_PAGE_END))
        .bind(after)
        .bind(PAGE_LOANS - 1)
        .fetch_optional(&mut *connection)
        .await
        .map_err(Error::at("find the end of a page of loans"))?;
    let rows: Vec<Row> = sqlx::query_as(schema.sql(&SELECT_PAGE))
        .bind(after)
        .bind(last.unwrap_or(Uuid::max()))
        .bind(now)
        .bind(until)
        .bind(PATRON_LOANS_MAX)
        .fetch_all(connection)
        .await
        .map_err(Error::at("read the loans of patrons by due date"))?;
    let patrons = rows.into_iter().map(|row| row.into_patron(now)).collect();
    Ok(Page { patrons, last })
}
