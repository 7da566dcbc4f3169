-- What operators must know of the log: gaps, stopped partitions, tenants that can't be written. And how
-- far topics were read that belong to no single tenant.
create table incident (
    incident_id uuid primary key,
    kind text not null check (kind in (
        'records_lost', 'topic_recreated', 'database_restored', 'offsets_advanced', 'offsets_reset',
        'partition_stopped', 'tenant_unusable'
    )),
    tenant text,
    topic text not null,
    partition integer not null,
    from_offset bigint not null,
    to_offset bigint not null,
    from_time timestamptz,
    to_time timestamptz,
    detail text not null,
    raised_at timestamptz not null,
    resolved_at timestamptz,
    resolved_by text
);
comment on table incident is 'Raised by ingest; open until an operator, or the service itself, resolves it';
comment on column incident.incident_id is 'UUIDv5 of kind, topic, partition and offsets: the same finding is one incident';
comment on column incident.tenant is 'The topic''s tenant; none for a topic of a tenant collection';
comment on column incident.to_offset is 'The offset after the last one that it is about';
comment on column incident.from_time is 'Time of the last record before it, where known';
comment on column incident.to_time is 'Time of the first record after it, where known';

create index incident_open on incident (topic, partition) where resolved_at is null;

create table ingest_position (
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    last_record_at timestamptz,
    cluster text not null default '',
    primary key (topic, partition)
) with (fillfactor = 50);
comment on table ingest_position is 'As in each tenant''s schema, for topics of tenant collections';
comment on column ingest_position.last_record_at is 'Timestamp of the record before next_offset';
comment on column ingest_position.cluster is 'Id of the Kafka cluster that the offset belongs to';

alter table dead_letter add column cluster text not null default '';
comment on column dead_letter.cluster is 'Id of the Kafka cluster: part of the identity of a record without an id';
