-- The merge rule of a register: the value with the greater stamp wins; a missing stamp is older than any other.
-- PostgreSQL inlines this function and the next.
create function newer(new_stamp bytea, new anyelement, old_stamp bytea, old anyelement) returns anyelement
    language sql immutable parallel safe
    as $$ select case when new_stamp > coalesce(old_stamp, '') then new else old end $$;
comment on function newer is 'The value with the greater stamp';

create function loan_owner(
    check_out_stamp bytea, check_out_user uuid, snapshot_stamp bytea, snapshot_user uuid, fallback_user uuid
) returns uuid
    language sql immutable parallel safe
    return case when snapshot_stamp > coalesce(check_out_stamp, '') then snapshot_user
        else coalesce(check_out_user, fallback_user) end;
comment on function loan_owner is 'The borrower of a loan, by its registers';

-- The state of each loan: registers (a stamp and its values; the greater stamp wins), and what follows from them. The derived
-- columns are generated, so that no statement can forget them. src/patron/loan.rs computes the same, and a test compares both.
-- The previous_ columns hold what the row counted for before the last write: the merge adds the difference to the counters.
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
    due_by_recall boolean,

    lost_stamp bytea,
    lost_value boolean,

    claimed_stamp bytea,
    claimed_value boolean,

    closed_stamp bytea,
    fallback_user uuid,
    horizon bytea not null default '',
    prune_horizon bytea,

    user_id uuid generated always as (
        loan_owner(check_out_stamp, check_out_user, snapshot_stamp, snapshot_user, fallback_user)) stored,
    due_date timestamptz generated always as (coalesce(changed_due_date, check_out_due_date)) stored,
    recall boolean not null generated always as (coalesce(due_by_recall, false)) stored,
    lost boolean not null generated always as (coalesce(lost_value, false)) stored,
    claimed_returned boolean not null generated always as (coalesce(claimed_value, false)) stored,
    overdue_from timestamptz generated always as (
        timezone('UTC', timezone('UTC', coalesce(changed_due_date, check_out_due_date))
            + (coalesce(grace_minutes, 0) + 1) * interval '1 minute')) stored,
    is_open boolean not null generated always as (
        coalesce(greatest(check_out_stamp, snapshot_stamp) >= horizon, false)
        and (closed_stamp is null or coalesce(snapshot_stamp > closed_stamp, false))) stored,

    previous_user uuid,
    previous_open boolean not null default false,
    previous_lost boolean not null default false,
    previous_claimed boolean not null default false,
    previous_recall boolean not null default false
) with (fillfactor = 80);

create index loan_open on loan (user_id, overdue_from) include (recall, claimed_returned, due_date)
    where is_open;
-- Operators see the number of waiting rows. Such rows are few, so the index is small.
create index loan_waiting on loan (loan_id)
    where check_out_stamp is null and snapshot_stamp is null and closed_stamp is null;

comment on table loan is 'One row for each loan that an event named; a closed loan stays as a tombstone until it is pruned';
comment on column loan.loan_id is 'Id of the loan';
comment on column loan.check_out_stamp is 'Register check-out: stamp of the newest check-out';
comment on column loan.check_out_user is 'Register check-out: the borrower';
comment on column loan.check_out_due_date is 'Register check-out: the due date';
comment on column loan.grace_duration is 'Register check-out: length of the grace period in units of grace_interval; null for none';
comment on column loan.grace_interval is 'Register check-out: unit of the grace period';
comment on column loan.grace_minutes is 'Register check-out: the grace period in minutes';
comment on column loan.snapshot_stamp is 'Register snapshot: stamp of the newest open snapshot of a storage module';
comment on column loan.snapshot_user is 'Register snapshot: the borrower';
comment on column loan.due_stamp is 'Register due: stamp of the newest due-date change or snapshot';
comment on column loan.changed_due_date is 'Register due: the due date; takes precedence over check_out_due_date';
comment on column loan.due_by_recall is 'Register due: whether a recall set the due date';
comment on column loan.lost_stamp is 'Register lost: stamp';
comment on column loan.lost_value is 'Register lost: whether the item is lost';
comment on column loan.claimed_stamp is 'Register claimed returned: stamp';
comment on column loan.claimed_value is 'Register claimed returned: whether the patron claims to have returned the item';
comment on column loan.closed_stamp is 'Stamp of the newest evidence that the loan is closed; only a later open snapshot reopens the loan';
comment on column loan.fallback_user is 'A patron that another event named: the borrower until a check-out or snapshot names one';
comment on column loan.horizon is 'Evidence that is older does not open the loan: the greater of prune horizon and snapshot horizon (8 bytes, prefix of a stamp)';
comment on column loan.prune_horizon is 'Prune horizon of the tenant when the row was inserted: the part of horizon that does not depend on the borrower; null if nothing had been pruned';
comment on column loan.user_id is 'Derived: the borrower';
comment on column loan.due_date is 'Derived: the due date';
comment on column loan.recall is 'Derived: whether the loan is recalled';
comment on column loan.lost is 'Derived: whether the item is lost';
comment on column loan.claimed_returned is 'Derived: whether the item is claimed returned';
comment on column loan.overdue_from is 'Derived: first instant at which the loan is overdue';
comment on column loan.is_open is 'Derived: whether the loan counts for its borrower';
comment on column loan.previous_user is 'Before the last write: user_id';
comment on column loan.previous_open is 'Before the last write: is_open';
comment on column loan.previous_lost is 'Before the last write: whether the row counted as lost';
comment on column loan.previous_claimed is 'Before the last write: whether the row counted as claimed returned';
comment on column loan.previous_recall is 'Before the last write: whether the row counted as recalled';
