-- Per patron: counters, the patron group as last known, and horizons.
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
comment on table patron_counter is 'A cache of what loan and fee_fine hold; a recount must equal it at any commit';
comment on column patron_counter.summary_id is 'Stable id of the patron''s summary, version 4 as FOLIO asks';
comment on column patron_counter.version is 'Grows with each change to an open loan or fee/fine';
comment on column patron_counter.open_loans is 'Open loans, those claimed returned among them';
comment on column patron_counter.lost_loans is 'Open, lost and not claimed returned';
comment on column patron_counter.recalled_loans is 'Open, recalled and not claimed returned';
comment on column patron_counter.fee_fine_balance is 'Sum of all open balances, those of claimed returned loans too';

create table patron (
    user_id uuid primary key,
    patron_group text not null,
    known_at timestamptz not null
);
comment on table patron is 'Patron groups as the users module last told them';

create table horizon (
    user_id uuid primary key,
    horizon bytea not null check (length(horizon) = 8)
);
comment on table horizon is 'Up to when a complete snapshot spoke, per patron; the nil UUID stands for the whole tenant';
