-- Rebuilds of tenants. They belong to the module: any instance looks here for one whose instance has died.
create table rebuild (
    id uuid primary key,
    tenant text not null,
    request jsonb not null,
    status text not null check (status in (
        'waiting', 'reading', 'comparing', 'compared', 'applying', 'done', 'failed', 'cancelled'
    )),
    asked_by text not null,
    asked_at timestamptz not null,
    begun_at timestamptz,
    ended_at timestamptz,
    held_until timestamptz,
    holder uuid,
    cancel boolean not null default false,
    progress jsonb not null default '{}',
    summary jsonb,
    error text,
    loans_read integer not null default 0,
    fees_fines_read integer not null default 0,
    problems jsonb not null default '[]',
    refused integer not null default 0
);
create index rebuild_open on rebuild (asked_at) where status in ('waiting', 'reading', 'comparing', 'applying');
create index rebuild_tenant on rebuild (tenant, asked_at);

comment on table rebuild is 'Rebuilds that were asked for, also those that have ended';
comment on column rebuild.asked_by is 'The staff user, or who else asked';
comment on column rebuild.held_until is 'Until then its instance works on it; afterwards any other may';
comment on column rebuild.holder is 'Who took it last: made for each taking';
comment on column rebuild.cancel is 'Whether it is to end where it stands';
comment on column rebuild.progress is 'How much is done of how much, as last told';
comment on column rebuild.summary is 'How much was found to be different, by kind';
comment on column rebuild.loans_read is 'Open loans that the storage modules told of';
comment on column rebuild.fees_fines_read is 'Open fees/fines that they told of';
comment on column rebuild.problems is 'What was odd on the way: records that were passed over, tokens that were refused';
comment on column rebuild.refused is 'How often in a row a token was refused';
