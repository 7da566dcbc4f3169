-- One more thing that operators must know: a partition that is read no further although it holds more.
alter table incident drop constraint incident_kind_check;
alter table incident add constraint incident_kind_check check (kind in (
    'records_lost', 'topic_made_anew', 'database_restored', 'group_moved_ahead', 'group_set_back',
    'partition_stopped', 'tenant_unusable', 'partition_stalled'
));
