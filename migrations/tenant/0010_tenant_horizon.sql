-- The snapshot horizon of the whole tenant.
create table tenant_horizon (
    singleton boolean primary key default true check (singleton),
    horizon bytea not null check (length(horizon) = 8),
    loans_horizon bytea check (length(loans_horizon) = 8)
);
comment on table tenant_horizon is 'At most one row: snapshot horizon of the whole tenant';
comment on column tenant_horizon.singleton is 'Always true: the table has at most one row';
comment on column tenant_horizon.horizon is 'Start of the newest complete snapshot: what it lacks of older loans and fees/fines is closed (prefix of a stamp)';
comment on column tenant_horizon.loans_horizon is 'When storage last deleted all loans; concerns no fee/fine; null if never';
