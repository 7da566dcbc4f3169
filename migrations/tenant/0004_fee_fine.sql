-- What is known of each fee/fine, in the manner of the table of loans.
create table fee_fine (
    fee_fine_id uuid primary key,

    balance_stamp bytea,
    balance numeric,
    loan_id uuid,

    type_stamp bytea,
    fee_fine_type_id uuid,

    user_stamp bytea,
    user_id uuid,

    horizon bytea not null default '',

    is_open boolean not null generated always as (
        coalesce(balance <> 0 and balance_stamp >= horizon and user_id is not null, false)) stored,

    counted_user uuid,
    counted_open boolean not null default false,
    counted_balance numeric not null default 0
) with (fillfactor = 80);

comment on table fee_fine is 'One row for each fee/fine that any event named; a paid one stays as a tombstone';
comment on column fee_fine.balance_stamp is 'Newest balance; with it came the loan link, or its absence';
comment on column fee_fine.user_id is 'Who owes it; a fee/fine without one waits and counts for nobody';
comment on column fee_fine.horizon is 'A complete snapshot spoke up to here: older evidence opens nothing';
comment on column fee_fine.counted_user is 'Before the last write: whose counters held this fee/fine';

create index fee_fine_open on fee_fine (user_id) include (loan_id, balance) where is_open;
