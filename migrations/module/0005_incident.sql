-- What operators must know: gaps in a topic, stopped partitions, tenants whose tables cannot be written, repairs that need a
-- decision. The code defines the kinds: two versions may know different ones.
create table incident (
    incident_id uuid primary key,
    kind text not null check (kind ~ '^[a-z_]+$'),
    tenant text,
    topic text not null,
    partition integer not null,
    from_offset bigint not null,
    to_offset bigint not null,
    from_time timestamptz,
    to_time timestamptz,
    rebuild_id uuid,
    detail text not null,
    raised_at timestamptz not null,
    resolved_at timestamptz,
    resolved_by text
);
create index incident_open on incident (topic, partition) where resolved_at is null;
create index incident_rebuild on incident (rebuild_id) where resolved_at is null;

comment on table incident is 'Raised by the service; open until an operator, or the service, resolves it';
comment on column incident.incident_id is 'UUIDv5 of kind, topic, partition and offsets (or of kind and rebuild): the same finding is one incident';
comment on column incident.kind is 'Name of an IncidentKind of src/store';
comment on column incident.tenant is 'Tenant of the topic; null for a topic of a tenant collection';
comment on column incident.topic is 'Full name of the topic; empty for an incident of a rebuild';
comment on column incident.partition is 'Number of the partition; -1 for an incident of a rebuild';
comment on column incident.from_offset is 'First offset of the range';
comment on column incident.to_offset is 'Offset after the last one of the range';
comment on column incident.from_time is 'Timestamp of the last record before the range; null if unknown';
comment on column incident.to_time is 'Timestamp of the first record after the range; null if unknown';
comment on column incident.rebuild_id is 'The rebuild that raised the incident; null for an incident of a topic';
comment on column incident.detail is 'Meaning and consequence, in words';
comment on column incident.raised_at is 'When the incident was last raised, by the clock of the database';
comment on column incident.resolved_at is 'When the incident was resolved; null while it is open';
comment on column incident.resolved_by is 'Who resolved the incident';
