-- Iterations: every patron's summary, published once to a topic that somebody names.
create table iteration (
    id uuid primary key,
    tenant text not null,
    topic text not null,
    event_type text not null,
    patron_group text,
    changed_since timestamptz,
    status text not null default 'waiting'
        check (status in ('waiting', 'publishing', 'done', 'failed', 'cancelled')),
    asked_by text not null,
    asked_at timestamptz not null,
    begun_at timestamptz,
    ended_at timestamptz,
    held_until timestamptz,
    holder uuid,
    total bigint,
    published bigint not null default 0,
    last_user uuid,
    error text
);
create index iteration_open on iteration (asked_at) where ended_at is null;
create index iteration_tenant on iteration (tenant, asked_at);
comment on table iteration is 'Iterations that were asked for, also those that have ended';
comment on column iteration.topic is 'Full name of the topic';
comment on column iteration.held_until is 'Until then its instance works on it; afterwards any other may';
comment on column iteration.holder is 'Who took it last: made for each taking';
comment on column iteration.last_user is 'All up to this patron is acknowledged by the broker';
