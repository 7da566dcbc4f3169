-- Queue of patrons whose blocks may have changed. Triggers only insert, in the transaction of the change: an upsert would make
-- ingest wait for the worker that deletes the row (docs/decisions/0019).
create table pending_patron (
    low_priority boolean not null default false,
    number bigint generated always as identity,
    user_id uuid not null,
    cause text not null,
    primary key (low_priority, number)
);
-- Rows come and go. Dead rows have to be removed at once, or each claim scans them.
alter table pending_patron set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table pending_patron is 'Patrons to evaluate again; a patron may have several rows';
comment on column pending_patron.low_priority is 'Whether the row comes from a change of limits or settings, which concerns many patrons: claimed after all others';
comment on column pending_patron.number is 'Order of claiming';
comment on column pending_patron.user_id is 'Id of the patron';
comment on column pending_patron.cause is 'Name of a Cause of src/blocks';
