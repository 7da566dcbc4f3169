-- How far each topic was read for this tenant, and the records that could not be applied.
create table ingest_position (
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    last_record_at timestamptz,
    primary key (topic, partition)
) with (fillfactor = 50);
comment on table ingest_position is 'Written in the transaction that made the records before next_offset durable';

create table dead_letter (
    dead_letter_id uuid primary key,
    reason text not null,
    field text,
    rule text not null,
    topic text not null,
    partition integer not null,
    "offset" bigint not null,
    record_at timestamptz,
    received_at timestamptz not null,
    key bytea,
    headers jsonb not null,
    payload bytea not null
);
comment on table dead_letter is 'Records of this tenant that could not be applied, with all that is needed to try again';
comment on column dead_letter.dead_letter_id is 'UUIDv5 of the record''s place: a redelivery is recognised';
comment on column dead_letter.reason is 'From the closed list in src/event/decode.rs';
comment on column dead_letter.headers is 'Header names and values as text, in order, without tokens';
