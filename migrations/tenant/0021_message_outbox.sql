-- Outbox of Kafka messages, written in the transaction of the change that they report (docs/decisions/0019).
create sequence message_sequence;
comment on sequence message_sequence is 'Never below the microseconds since 1970: a tenant that comes back continues above all numbers that it published';
create table message_outbox (
    sequence bigint primary key,
    id uuid not null,
    kafka_topic text not null,
    key text not null,
    headers jsonb not null,
    payload text not null,
    status text not null default 'NEW' check (status in ('NEW', 'SENT')),
    created_at timestamptz not null default now(),
    sent_at timestamptz
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index message_outbox_new on message_outbox (sequence) where status = 'NEW';
comment on table message_outbox is 'Messages to publish, and those that were published lately';
comment on column message_outbox.sequence is 'Order of the messages: of two messages about a patron the greater number is the later one';
comment on column message_outbox.id is 'Id of the event: a consumer recognises a duplicate by it';
comment on column message_outbox.kafka_topic is 'Full name of the topic';
comment on column message_outbox.key is 'Key of the record';
comment on column message_outbox.headers is 'Headers of the record, as an object of texts';
comment on column message_outbox.payload is 'Value of the record';
comment on column message_outbox.status is 'NEW until the broker has acknowledged the message, then SENT';
comment on column message_outbox.created_at is 'When the message was written, by the clock of the database';
comment on column message_outbox.sent_at is 'When the broker acknowledged it; null while it is NEW';
