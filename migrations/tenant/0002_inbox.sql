-- Every event that was understood, once: what makes a repeat known, and what explanations and
-- rebuilds read. Claimed in the transaction that applies it.
create table inbox (
    event_key uuid primary key,
    identified_by text not null,
    kind text not null,
    subject uuid not null,
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
comment on table inbox is 'Events that were applied: deduplication and history in one';
comment on column inbox.event_key is 'The envelope''s id, else UUIDv5 of cluster, topic, partition, offset, timestamp';
comment on column inbox.identified_by is 'Which of these rules gave event_key';
comment on column inbox.subject is 'The loan, or the fee/fine';
comment on column inbox.user_id is 'The patron that the event names, if any';
comment on column inbox.timed_by is 'Which rule of the contract gave occurred_at';
comment on column inbox.stamp is 'The event''s place in the total order (src/event/stamp.rs)';
comment on column inbox.payload is 'The record''s value as it came';
