-- Settings of the last detection. If they change, all patrons are evaluated again. One instance holds the lease: instances with
-- different settings must not overwrite each other in turns.
create table block_event_settings (
    singleton boolean primary key default true check (singleton),
    approaching_percent smallint,
    lease_holder uuid,
    lease_expires_at timestamptz
);
insert into block_event_settings default values;
comment on table block_event_settings is 'One row: settings of the last detection';
comment on column block_event_settings.singleton is 'Always true: the table has one row';
comment on column block_event_settings.approaching_percent is 'A patron within so many percent of a limit approaches it; null before the first detection';
comment on column block_event_settings.lease_holder is 'The instance that may change this row';
comment on column block_event_settings.lease_expires_at is 'End of the lease, unless its holder renews it: then any instance may acquire it';
