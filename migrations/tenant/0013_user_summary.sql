-- The summary of each patron who has anything open, for GET /user-summary and for reports. Reports were built on a table of the
-- Java module with the same columns (docs/decisions/0016). creation_date and created_by are unknown here. A due date outside of
-- the years 1 to 9999 is shown as the nearest date in these years.
create view user_summary as
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
comment on view user_summary is 'Summary of each patron who has anything open';
comment on column user_summary.id is 'Id of the summary';
comment on column user_summary.jsonb is 'The summary';
comment on column user_summary.user_id is 'Id of the patron';
comment on column user_summary.creation_date is 'Always null: reports of the Java module select it';
comment on column user_summary.created_by is 'Always null: reports of the Java module select it';
