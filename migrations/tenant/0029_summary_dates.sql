-- A due date may stand on the last day that a text can name and, in UTC, in a year of five digits. Clients and
-- reports read four: what is beyond them is shown as far as they go. All else is as before.
create or replace view user_summary as
select
    c.summary_id as id,
    jsonb_build_object(
        'id', c.summary_id,
        '_version', c.version,
        'userId', c.user_id,
        'openLoans', coalesce(
            (
                select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                    'loanId', l.loan_id,
                    'dueDate', to_char(
                        case
                            when l.due_date > timestamptz '9999-12-31 23:59:59.999+00'
                                then timestamptz '9999-12-31 23:59:59.999+00'
                            when l.due_date < timestamptz '0001-01-01 00:00:00+00'
                                then timestamptz '0001-01-01 00:00:00+00'
                            else l.due_date
                        end at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"+00:00"'),
                    'recall', l.recall,
                    'itemLost', l.lost,
                    'itemClaimedReturned', l.claimed_returned,
                    'gracePeriod', case when l.grace_duration is not null then
                        jsonb_build_object('duration', l.grace_duration, 'intervalId', l.grace_interval) end
                )) order by l.loan_id)
                from loan l where l.user_id = c.user_id and l.is_open
            ), '[]'),
        'openFeesFines', coalesce(
            (
                select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                    'feeFineId', f.fee_fine_id,
                    'feeFineTypeId', f.fee_fine_type_id,
                    'loanId', f.loan_id,
                    'balance', f.balance
                )) order by f.fee_fine_id)
                from fee_fine f where f.user_id = c.user_id and f.is_open
            ), '[]')
    ) as jsonb,
    c.user_id,
    null::timestamp without time zone as creation_date,
    null::text as created_by
from patron_counter c
where c.open_loans > 0 or c.open_fees_fines > 0;
