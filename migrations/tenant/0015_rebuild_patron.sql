-- Differences that a rebuild found, per patron.
create table rebuild_patron (
    rebuild_id uuid not null,
    user_id uuid not null,
    loans integer not null,
    fees_fines integer not null,
    counters boolean not null,
    current_loans integer,
    target_loans integer,
    blocked_before text[],
    blocked_after text[],
    applied_at timestamptz,
    primary key (rebuild_id, user_id)
);
comment on table rebuild_patron is 'Patrons for whom a rebuild found differences';
comment on column rebuild_patron.rebuild_id is 'The rebuild';
comment on column rebuild_patron.user_id is 'Id of the patron';
comment on column rebuild_patron.loans is 'Number of loans with a significant difference';
comment on column rebuild_patron.fees_fines is 'Number of fees/fines with a significant difference';
comment on column rebuild_patron.counters is 'Whether the counters differ from a recount of the rows';
comment on column rebuild_patron.current_loans is 'Number of open loans in the current state';
comment on column rebuild_patron.target_loans is 'Number of open loans in the target state';
comment on column rebuild_patron.blocked_before is 'Ids of the conditions that block the patron in the current state; null if the patron group is unknown';
comment on column rebuild_patron.blocked_after is 'Ids of the conditions that block the patron in the target state; null if the patron group is unknown';
comment on column rebuild_patron.applied_at is 'When the target state was applied; null if it was not';
