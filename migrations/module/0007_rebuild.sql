-- Rebuilds of tenants. They belong to the module: any instance claims one that nobody works on.
create table rebuild (
    id uuid primary key,
    tenant text not null,
    request jsonb not null,
    read_group text,
    status text not null check (status in (
        'waiting', 'reading', 'comparing', 'compared', 'applying', 'done', 'failed', 'cancelled'
    )),
    requested_by text not null,
    requested_at timestamptz not null,
    started_at timestamptz,
    ended_at timestamptz,
    lease_holder uuid,
    lease_expires_at timestamptz,
    cancel_requested boolean not null default false,
    progress jsonb not null default '{}',
    summary jsonb,
    error text,
    problems jsonb not null default '[]',
    loans_read integer not null default 0,
    fees_fines_read integer not null default 0,
    skipped_records integer not null default 0,
    token_refusals integer not null default 0
);
create index rebuild_open on rebuild (requested_at) where status in ('waiting', 'reading', 'comparing', 'applying');
create index rebuild_tenant on rebuild (tenant, requested_at);

comment on table rebuild is 'Rebuilds, ended ones included; a row is deleted 90 days after its rebuild has ended';
comment on column rebuild.id is 'Id of the rebuild';
comment on column rebuild.tenant is 'The tenant';
comment on column rebuild.request is 'The request: source, scope and options';
comment on column rebuild.read_group is 'Rebuilds with the same value read the topics that their tenants share in one pass; null for a rebuild that reads alone';
comment on column rebuild.status is 'Stage of the rebuild';
comment on column rebuild.requested_by is 'Id of the staff user, or name of the part of the service that requested it';
comment on column rebuild.requested_at is 'When it was requested, by the clock of the database';
comment on column rebuild.started_at is 'When an instance first claimed it';
comment on column rebuild.ended_at is 'When it ended; null while it is open';
comment on column rebuild.lease_holder is 'Random id of the current lease; each claim makes a new one';
comment on column rebuild.lease_expires_at is 'End of the lease: until then only the holder works on the rebuild';
comment on column rebuild.cancel_requested is 'Whether the rebuild has to end without further changes';
comment on column rebuild.progress is 'Stage and counts at the last renewal of the lease';
comment on column rebuild.summary is 'Number of differences by kind';
comment on column rebuild.error is 'Why it failed, or was not applied';
comment on column rebuild.problems is 'Warnings: skipped records, refused tokens';
comment on column rebuild.loans_read is 'Number of open loans read from the storage modules';
comment on column rebuild.fees_fines_read is 'Number of open fees/fines read from the storage modules';
comment on column rebuild.skipped_records is 'Number of unreadable records of the storage modules: the rows of these records stay as they are';
comment on column rebuild.token_refusals is 'Number of consecutive refusals of a token';
