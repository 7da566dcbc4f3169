-- Every event that was applied, once. A key that exists marks a redelivery. Explanations and rebuilds read the events. The
-- transaction that applies an event inserts its row.
create table inbox (
    event_key uuid primary key,
    identified_by text not null,
    kind text not null,
    subject uuid,
    user_id uuid,
    occurred_at timestamptz not null,
    timed_by text not null,
    stamp bytea not null,
    topic text,
    partition integer,
    "offset" bigint,
    received_at timestamptz not null,
    payload bytea not null
);
create index inbox_subject on inbox (subject);

comment on table inbox is 'Applied events: deduplication and history in one';
comment on column inbox.event_key is 'Id of the envelope, else UUIDv5 of cluster, topic, partition, offset and timestamp';
comment on column inbox.identified_by is 'Rule that gave event_key: an IdentifiedBy of src/event';
comment on column inbox.kind is 'Kind of the event: a Kind of src/event';
comment on column inbox.subject is 'The loan, the fee/fine or the patron; null for an event about all loans of the tenant';
comment on column inbox.user_id is 'The patron that the event names; null if it names none';
comment on column inbox.occurred_at is 'When it happened';
comment on column inbox.timed_by is 'Rule that gave occurred_at: a TimedBy of src/event';
comment on column inbox.stamp is 'Rank of the event in the total order (src/event/stamp.rs)';
comment on column inbox.topic is 'Full name of the topic';
comment on column inbox.partition is 'Number of the partition; negative for an event that came over HTTP';
comment on column inbox."offset" is 'Offset of the record';
comment on column inbox.received_at is 'When it was applied, by the clock of the database';
comment on column inbox.payload is 'Value of the record; empty for a user record, which holds personal data';
