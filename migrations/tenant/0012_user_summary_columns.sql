-- Reports were built on a table user_summary that had these columns too (docs/decisions/0016). Views that
-- name them work on ours as well; we know neither when a summary was made nor by whom. New columns go last,
-- so that what depends on the view stays as it is.
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
                    'dueDate', to_char(l.due_date at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"+00:00"'),
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
