-- Conditions and limits, in the shape that the module this one replaces left behind and that reports
-- read: an id and the whole record as JSON. Existing tables and rows stay as they are.
create table if not exists patron_block_conditions (
    id uuid primary key,
    jsonb jsonb not null,
    creation_date timestamp without time zone,
    created_by text
);

create table if not exists patron_block_limits (
    id uuid primary key,
    jsonb jsonb not null,
    creation_date timestamp without time zone,
    created_by text,
    conditionid uuid references patron_block_conditions (id)
);

create index if not exists patron_block_limits_conditionid_idx on patron_block_limits (conditionid);
