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
