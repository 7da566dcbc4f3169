-- The state of each fee/fine, in registers as that of a loan.
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
    prune_horizon bytea,

    is_open boolean not null generated always as (
        coalesce(balance <> 0 and balance_stamp >= horizon and user_id is not null, false)) stored,

    previous_user uuid,
    previous_open boolean not null default false,
    previous_balance numeric not null default 0
) with (fillfactor = 80);

create index fee_fine_open on fee_fine (user_id) include (loan_id, balance) where is_open;
-- Operators see the number of waiting rows. Such rows are few, so the index is small.
create index fee_fine_waiting on fee_fine (fee_fine_id) where user_id is null and balance <> 0;

comment on table fee_fine is 'One row for each fee/fine that an event named; a closed one stays as a tombstone until it is pruned';
comment on column fee_fine.fee_fine_id is 'Id of the fee/fine';
comment on column fee_fine.balance_stamp is 'Register balance: stamp of the newest balance';
comment on column fee_fine.balance is 'Register balance: the amount that is owed';
comment on column fee_fine.loan_id is 'Register balance: the loan that the fee/fine belongs to; null for none';
comment on column fee_fine.type_stamp is 'Register type: stamp';
comment on column fee_fine.fee_fine_type_id is 'Register type: id of the type';
comment on column fee_fine.user_stamp is 'Register owner: stamp';
comment on column fee_fine.user_id is 'Register owner: the patron who owes it; null until an event names one: the row counts for nobody';
comment on column fee_fine.horizon is 'Evidence that is older does not open the fee/fine: as loan.horizon';
comment on column fee_fine.prune_horizon is 'As loan.prune_horizon';
comment on column fee_fine.is_open is 'Derived: whether the fee/fine counts for its owner';
comment on column fee_fine.previous_user is 'Before the last write: user_id';
comment on column fee_fine.previous_open is 'Before the last write: is_open';
comment on column fee_fine.previous_balance is 'Before the last write: the balance that counted';
