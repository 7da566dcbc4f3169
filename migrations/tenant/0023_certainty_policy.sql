-- What the service does with evaluations that are not certain. Without a row, every evaluation counts as it is.
create table certainty_policy (
    singleton boolean primary key default true check (singleton),
    policy jsonb not null,
    updated_at timestamptz not null,
    updated_by text
);
comment on table certainty_policy is 'At most one row: the reactions to uncertain evaluations';
comment on column certainty_policy.singleton is 'Always true: the table has at most one row';
comment on column certainty_policy.policy is 'The policy as the API returns it';
comment on column certainty_policy.updated_at is 'When the policy was last replaced, by the clock of the database';
comment on column certainty_policy.updated_by is 'Id of the staff user who replaced the policy; null if unknown';
