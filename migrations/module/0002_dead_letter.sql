-- Records whose tenant can't be told. They are parked here with all that is needed to try again.
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
comment on table dead_letter is 'Records that could not be applied and whose tenant can''t be told';
comment on column dead_letter.dead_letter_id is 'UUIDv5 of the record''s place: a redelivery is recognised';
comment on column dead_letter.reason is 'From the closed list in src/event/decode.rs';
comment on column dead_letter.headers is 'Header names and values as text, in order, without tokens';
