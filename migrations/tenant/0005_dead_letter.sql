-- Records of this tenant that could not be applied. Each row has all that a retry needs.
create table dead_letter (
    dead_letter_id uuid primary key,
    reason text not null,
    field text,
    rule text not null,
    topic text not null,
    partition integer not null,
    "offset" bigint not null,
    cluster text not null default '',
    record_at timestamptz,
    received_at timestamptz not null,
    key bytea,
    headers jsonb not null,
    payload bytea not null,
    subjects uuid[] not null default '{}'
);
create index dead_letter_subjects on dead_letter using gin (subjects);
create index dead_letter_received on dead_letter (received_at desc, dead_letter_id);
comment on table dead_letter is 'Records of this tenant that could not be applied';
comment on column dead_letter.dead_letter_id is 'UUIDv5 of the position of the record: a redelivery adds no row';
comment on column dead_letter.reason is 'Name of a Reason of src/event';
comment on column dead_letter.field is 'Member or header that breaks the rule; null if the rule names none';
comment on column dead_letter.rule is 'The rule that the record breaks, in words';
comment on column dead_letter.topic is 'Full name of the topic';
comment on column dead_letter.partition is 'Number of the partition';
comment on column dead_letter."offset" is 'Offset of the record';
comment on column dead_letter.cluster is 'Id of the Kafka cluster: part of the identity of a record without an id';
comment on column dead_letter.record_at is 'Timestamp of the record; null if it has none';
comment on column dead_letter.received_at is 'When the row was added, by the clock of the database';
comment on column dead_letter.key is 'Key of the record';
comment on column dead_letter.headers is 'Header names and values as text, in order, without tokens';
comment on column dead_letter.payload is 'Value of the record';
comment on column dead_letter.subjects is 'UUIDs in key and value, at most 20: a patron, loan or fee/fine among them may lack the record';
