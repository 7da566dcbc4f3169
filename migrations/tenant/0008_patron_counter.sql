-- Counters of each patron: an answer reads one row.
create table patron_counter (
    user_id uuid primary key,
    summary_id uuid not null default gen_random_uuid(),
    version bigint not null default 1,
    open_loans integer not null,
    lost_loans integer not null,
    claimed_returned_loans integer not null,
    recalled_loans integer not null,
    open_fees_fines integer not null,
    fee_fine_balance numeric not null
) with (fillfactor = 70);
comment on table patron_counter is 'A cache of loan and fee_fine; a recount must equal it at every commit';
comment on column patron_counter.user_id is 'Id of the patron';
comment on column patron_counter.summary_id is 'Stable id of the summary of the patron, a UUID of version 4 as FOLIO requires';
comment on column patron_counter.version is 'Increases with each change of an open loan or fee/fine';
comment on column patron_counter.open_loans is 'Open loans, including those that are claimed returned';
comment on column patron_counter.lost_loans is 'Open loans that are lost and not claimed returned';
comment on column patron_counter.claimed_returned_loans is 'Open loans that are claimed returned';
comment on column patron_counter.recalled_loans is 'Open loans that are recalled and not claimed returned';
comment on column patron_counter.open_fees_fines is 'Open fees/fines';
comment on column patron_counter.fee_fine_balance is 'Sum of all open balances, including those of claimed returned loans';
-- What each open row counts for its patron. The sum of these rows is what patron_counter has to contain.
create view counted as
select
    user_id, 1 as loans, (lost and not claimed_returned)::int as lost, claimed_returned::int as claimed,
    (recall and not claimed_returned)::int as recalled, 0 as fees, 0::numeric as balance
from loan where is_open
union all
select user_id, 0, 0, 0, 0, 1, balance from fee_fine where is_open;
comment on view counted is 'What each open loan and fee/fine counts for its patron';
comment on column counted.user_id is 'Id of the patron';
comment on column counted.loans is '1 for a loan';
comment on column counted.lost is '1 for a loan that is lost and not claimed returned';
comment on column counted.claimed is '1 for a loan that is claimed returned';
comment on column counted.recalled is '1 for a loan that is recalled and not claimed returned';
comment on column counted.fees is '1 for a fee/fine';
comment on column counted.balance is 'Balance of a fee/fine, 0 for a loan';
