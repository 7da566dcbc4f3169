-- What is known of each loan: registers (a stamp and what was said then; the greater stamp wins), and
-- what follows from them. What follows is generated, so no statement can leave it behind, and
-- src/patron/loan.rs says the same in Rust; a test compares them.
create table loan (
    loan_id uuid primary key,

    check_out_stamp bytea,
    check_out_user uuid,
    check_out_due_date timestamptz,
    grace_duration integer check (grace_duration > 0),
    grace_interval text check (grace_interval in ('Minutes', 'Hours', 'Days', 'Weeks', 'Months')),
    grace_minutes bigint check (grace_minutes > 0),

    snapshot_stamp bytea,
    snapshot_user uuid,

    due_stamp bytea,
    changed_due_date timestamptz,
    changed_by_recall boolean,

    lost_stamp bytea,
    said_lost boolean,

    claimed_stamp bytea,
    said_claimed boolean,

    closed_stamp bytea,
    named_user uuid,
    horizon bytea not null default '',

    user_id uuid generated always as (
        case when snapshot_stamp > coalesce(check_out_stamp, '') then snapshot_user
            else coalesce(check_out_user, named_user) end) stored,
    due_date timestamptz generated always as (coalesce(changed_due_date, check_out_due_date)) stored,
    recall boolean not null generated always as (coalesce(changed_by_recall, false)) stored,
    lost boolean not null generated always as (coalesce(said_lost, false)) stored,
    claimed_returned boolean not null generated always as (coalesce(said_claimed, false)) stored,
    overdue_from timestamptz generated always as (
        timezone('UTC', timezone('UTC', coalesce(changed_due_date, check_out_due_date))
            + (coalesce(grace_minutes, 0) + 1) * interval '1 minute')) stored,
    is_open boolean not null generated always as (
        coalesce(greatest(check_out_stamp, snapshot_stamp) >= horizon, false)
        and (closed_stamp is null or coalesce(snapshot_stamp > closed_stamp, false))) stored,

    counted_user uuid,
    counted_open boolean not null default false,
    counted_lost boolean not null default false,
    counted_claimed boolean not null default false,
    counted_recall boolean not null default false
) with (fillfactor = 80);

comment on table loan is 'One row for each loan that any event named; a closed one stays as a tombstone';
comment on column loan.check_out_stamp is 'Newest check-out; with it came borrower, due date and grace period';
comment on column loan.snapshot_stamp is 'Newest open snapshot of a storage module; with it came its owner';
comment on column loan.due_stamp is 'Newest due-date change or snapshot; outranks the check-out''s due date';
comment on column loan.closed_stamp is 'Newest evidence that the loan ended; only a later open snapshot undoes it';
comment on column loan.named_user is 'A patron named by other events; the owner only until one is known';
comment on column loan.horizon is 'A complete snapshot spoke up to here: older evidence opens nothing (8 bytes, prefix of a stamp)';
comment on column loan.overdue_from is 'First instant at which the loan is overdue';
comment on column loan.is_open is 'Whether the loan counts for its patron';
comment on column loan.counted_user is 'Before the last write: whose counters held this loan (the counted_ columns make the delta)';

create index loan_open on loan (user_id, overdue_from) include (recall, claimed_returned, due_date)
    where is_open;
