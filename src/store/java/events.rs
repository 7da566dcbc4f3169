//! SQL on the event tables of the Java module: the times of its writes, and the loans and fees/fines that
//! it knew as closed.

use crate::store::Statement;

/// A regular expression for the UUIDs in JSON that may be cast.
macro_rules! uuid_pattern {
    () => {
        "'^[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'"
    };
}
pub(super) use uuid_pattern;

/// The stamp of a snapshot, equal to the result of `event::Stamp::from_snapshot`; a test compares both.
macro_rules! stamp {
    ($at:literal, $of:literal) => {
        concat!(
            "(int8send(floor(extract(epoch from ",
            $at,
            ") * 1000)::int8",
            " # '-9223372036854775808'::int8) || '\\x0000'::bytea || uuid_send(",
            $of,
            "))"
        )
    };
}

/// The time at which the Java module wrote an event.
///
/// The column `creation_date` has no time zone. Its value is local time in the time zone of the session,
/// and no column contains that time zone. The record contains the same instant with an offset. If the
/// record's date is valid, the expression uses that date; otherwise the column is interpreted as UTC.
macro_rules! written_at {
    () => {
        concat!(
            "case when jsonb #>> '{metadata,createdDate}' ~ '",
            "^([1-9]\\d{3}-(0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])",
            "|[1-9]\\d{3}-(0[469]|11)-(0[1-9]|[12]\\d|30)",
            "|[1-9]\\d{3}-02-(0[1-9]|1\\d|2[0-8])",
            "|[1-9]\\d(0[48]|[2468][048]|[13579][26])-02-29)",
            "T([01]\\d|2[0-3]):[0-5]\\d(:[0-5]\\d([.]\\d{1,9})?)?",
            "(Z|[-+](0\\d|1[0-4]):?[0-5]\\d)$'",
            " then (jsonb #>> '{metadata,createdDate}')::timestamptz",
            " else creation_date at time zone 'UTC' end"
        )
    };
}

/// Inserts the time of the last write for each patron in one event table.
macro_rules! times_of_patrons {
    ($table:literal) => {
        concat!(
            "insert into {schema}.java_time (id, at)
             select (jsonb ->> 'userId')::uuid, max(",
            written_at!(),
            ") from {schema}.",
            $table,
            " where jsonb ->> 'userId' ~* ",
            uuid_pattern!(),
            " and creation_date is not null
              group by 1"
        )
    };
}

/// Inserts the loans that the Java module knew as closed. A repeated old check-out must not open such a
/// loan.
macro_rules! closings {
    ($table:literal) => {
        concat!(
            "insert into {schema}.loan (loan_id, closed_stamp)
             select loan_id, ",
            stamp!("at", "loan_id"),
            "  from (select (jsonb ->> 'loanId')::uuid as loan_id, max(",
            written_at!(),
            ") as at from {schema}.",
            $table,
            "         where jsonb ->> 'loanId' ~* ",
            uuid_pattern!(),
            "           and creation_date >= $1 at time zone 'UTC' - interval '1 day'
                      group by 1) closed
              where at >= $1
              order by loan_id
             on conflict (loan_id) do nothing"
        )
    };
}

pub(super) const BALANCE_CHANGED_TIMES: Statement =
    Statement::new(times_of_patrons!("fee_fine_balance_changed_event"));
pub(super) const CHECKED_OUT_TIMES: Statement =
    Statement::new(times_of_patrons!("item_checked_out_event"));
pub(super) const CHECKED_IN_TIMES: Statement =
    Statement::new(times_of_patrons!("item_checked_in_event"));
pub(super) const DECLARED_LOST_TIMES: Statement =
    Statement::new(times_of_patrons!("item_declared_lost_event"));
pub(super) const AGED_TO_LOST_TIMES: Statement =
    Statement::new(times_of_patrons!("item_aged_to_lost_event"));
pub(super) const CLAIMED_RETURNED_TIMES: Statement =
    Statement::new(times_of_patrons!("item_claimed_returned_event"));
pub(super) const DUE_DATE_TIMES: Statement =
    Statement::new(times_of_patrons!("loan_due_date_changed_event"));
pub(super) const CLOSED_TIMES: Statement = Statement::new(times_of_patrons!("loan_closed_event"));
pub(super) const INSERT_CHECKED_IN_LOANS: Statement =
    Statement::new(closings!("item_checked_in_event"));
pub(super) const INSERT_CLOSED_LOANS: Statement = Statement::new(closings!("loan_closed_event"));

/// The event tables: name, statement for the times per patron, and statement for closed loans or
/// fees/fines.
pub(super) const EVENT_TABLES: [(&str, &Statement, Option<&Statement>); 8] = [
    ("fee_fine_balance_changed_event", &BALANCE_CHANGED_TIMES, Some(&INSERT_CLOSED_FEES)),
    ("item_checked_out_event", &CHECKED_OUT_TIMES, None),
    ("item_checked_in_event", &CHECKED_IN_TIMES, Some(&INSERT_CHECKED_IN_LOANS)),
    ("item_declared_lost_event", &DECLARED_LOST_TIMES, None),
    ("item_aged_to_lost_event", &AGED_TO_LOST_TIMES, None),
    ("item_claimed_returned_event", &CLAIMED_RETURNED_TIMES, None),
    ("loan_due_date_changed_event", &DUE_DATE_TIMES, None),
    ("loan_closed_event", &CLOSED_TIMES, Some(&INSERT_CLOSED_LOANS)),
];

/// Inserts the check-out time of each open loan, as far as the Java module still has the check-out event.
pub(super) const INSERT_CHECK_OUT_TIMES: Statement = Statement::new(concat!(
    "insert into {schema}.java_time (id, at)
     select (jsonb ->> 'loanId')::uuid, max(",
    written_at!(),
    ") from {schema}.item_checked_out_event
      where creation_date is not null and jsonb ->> 'loanId' ~* ",
    uuid_pattern!(),
    "
        and lower(jsonb ->> 'loanId') in (
          select lower(l ->> 'loanId')
            from {schema}.java_user_summary s
           cross join jsonb_array_elements(case jsonb_typeof(s.jsonb -> 'openLoans')
                        when 'array' then s.jsonb -> 'openLoans' else '[]' end) l)
      group by 1"
));

/// Inserts the fees/fines that the Java module knew as closed. A balance that rounds to 0 at 15 decimals
/// is 0 (docs/contract/events.md#63-numbers).
pub(super) const INSERT_CLOSED_FEES: Statement = Statement::new(concat!(
    "insert into {schema}.fee_fine (fee_fine_id, balance_stamp, balance)
     select id, ",
    stamp!("at", "id"),
    ", 0
       from (select distinct on (id) id, at, balance
               from (select (jsonb ->> 'feeFineId')::uuid as id, jsonb ->> 'balance' as balance, ",
    written_at!(),
    " as at
                       from {schema}.fee_fine_balance_changed_event
                      where creation_date >= $1 at time zone 'UTC' - interval '1 day'
                        and jsonb ->> 'feeFineId' ~* ",
    uuid_pattern!(),
    ") events
              where at >= $1
              order by id, at desc) newest
      where balance ~ '^[-+]?0*[.]?0*([eE][-+]?[0-9]+)?$'
         or (case when length(balance) < 1000
                       and balance ~ '^[-+]?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]{1,3})?$'
                  then abs(balance::numeric) <= 5e-16 else false end)
      order by id
     on conflict (fee_fine_id) do nothing"
));
