-- The snapshot horizon of single patrons.
create table patron_horizon (
    user_id uuid primary key,
    horizon bytea not null check (length(horizon) = 8)
);
comment on table patron_horizon is 'Snapshot horizons of single patrons: one row per patron with an applied complete snapshot';
comment on column patron_horizon.user_id is 'Id of the patron';
comment on column patron_horizon.horizon is 'Start of the newest complete snapshot of the patron (prefix of a stamp)';
