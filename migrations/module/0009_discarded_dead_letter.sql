-- Dead letters of no known tenant that an operator discarded. An operator can restore them until housekeeping deletes them.
create table discarded_dead_letter (
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
    subjects uuid[] not null default '{}',
    tenant text,
    discarded_at timestamptz not null default clock_timestamp()
);
comment on table discarded_dead_letter is 'Dead letters that an operator discarded: housekeeping deletes them later';
comment on column discarded_dead_letter.dead_letter_id is 'Id of the dead letter';
comment on column discarded_dead_letter.reason is 'Name of a Reason of src/event';
comment on column discarded_dead_letter.field is 'Member or header that breaks the rule; null if the rule names none';
comment on column discarded_dead_letter.rule is 'The rule that the record breaks, in words';
comment on column discarded_dead_letter.topic is 'Full name of the topic';
comment on column discarded_dead_letter.partition is 'Number of the partition';
comment on column discarded_dead_letter."offset" is 'Offset of the record';
comment on column discarded_dead_letter.cluster is 'Id of the Kafka cluster: part of the identity of a record without an id';
comment on column discarded_dead_letter.record_at is 'Timestamp of the record; null if it has none';
comment on column discarded_dead_letter.received_at is 'When the dead letter was stored, by the clock of the database';
comment on column discarded_dead_letter.key is 'Key of the record';
comment on column discarded_dead_letter.headers is 'Header names and values as text, in order, without tokens';
comment on column discarded_dead_letter.payload is 'Value of the record';
comment on column discarded_dead_letter.subjects is 'UUIDs in key and value, at most 20: a patron, loan or fee/fine among them may lack the record';
comment on column discarded_dead_letter.tenant is 'The tenant that the record waited for; null for all other records';
comment on column discarded_dead_letter.discarded_at is 'When the dead letter was discarded, by the clock of the database';
