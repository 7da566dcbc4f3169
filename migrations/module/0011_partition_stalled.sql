-- One more thing that operators must know: a partition that is read no further although it holds more.
alter table incident drop constraint incident_kind_check;
alter table incident add constraint incident_kind_check check (kind in (
    'records_lost', 'topic_recreated', 'database_restored', 'offsets_advanced', 'offsets_reset',
    'partition_stopped', 'tenant_unusable', 'partition_stalled'
));
