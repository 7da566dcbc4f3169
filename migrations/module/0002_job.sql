-- Rebuilds, summary exports and tenant jobs. They belong to the module, because a tenant job starts before the schema of
-- its tenant exists. Any instance claims a job that nobody works on, and answers for every job.
create table job (
    id uuid primary key,
    kind text not null check (kind in ('rebuild', 'summary_export', 'tenant')),
    tenant text not null,
    request jsonb not null,
    status text not null default 'waiting' check (
        status in ('waiting', 'done', 'failed', 'cancelled')
        or kind = 'rebuild' and status in ('reading', 'comparing', 'compared', 'applying')
        or kind = 'summary_export' and status = 'publishing'
        or kind = 'tenant' and status = 'enabling'
    ),
    requested_by text not null,
    requested_at timestamptz not null,
    started_at timestamptz,
    ended_at timestamptz,
    lease_holder uuid,
    lease_expires_at timestamptz,
    cancel_requested boolean not null default false,
    progress jsonb not null default '{}',
    error text,
    messages jsonb not null default '[]',
    -- The other columns serve rebuilds only.
    read_group text,
    summary jsonb,
    loans_read integer not null default 0,
    fees_fines_read integer not null default 0,
    skipped_records integer not null default 0,
    token_refusals integer not null default 0
);
create index job_open on job (kind, requested_at) where ended_at is null;
create index job_ended on job (kind, ended_at) where ended_at is not null;
create index job_tenant on job (tenant, kind, requested_at);

comment on table job is 'Rebuilds, summary exports and tenant jobs, ended ones included; a row is deleted 90 days after its job has ended, of a tenant job 30 days';
comment on column job.id is 'Id of the job, as in its path; each event of a summary export contains it';
comment on column job.kind is 'Kind of the job: two kinds share this table and no row';
comment on column job.tenant is 'The tenant';
comment on column job.request is 'The request: source, scope and options of a rebuild; topic and selection of a summary export; the body of POST /_/tenant';
comment on column job.status is 'Stage of the job';
comment on column job.requested_by is 'Id of the staff user, or name of the part of the service that requested it';
comment on column job.requested_at is 'When it was requested, by the clock of the database';
comment on column job.started_at is 'When an instance first claimed it';
comment on column job.ended_at is 'When it ended; null while it is open';
comment on column job.lease_holder is 'Random id of the current lease; each claim makes a new one';
comment on column job.lease_expires_at is 'End of the lease: until then only the holder works on the job; after a release the earliest time of the next claim, or null';
comment on column job.cancel_requested is 'Whether the rebuild has to end without further changes; a summary export ends at once instead';
comment on column job.progress is 'Progress at the last renewal of the lease: stage and counts of a rebuild; total, acknowledged summaries and last patron of a summary export';
comment on column job.error is 'Why it failed, or was not applied';
comment on column job.messages is 'Messages for the client: skipped records, refused tokens, whether mod-pubsub was informed';
comment on column job.read_group is 'Rebuilds with the same value read the topics that their tenants share in one pass; null for a rebuild that reads alone';
comment on column job.summary is 'Number of differences by kind';
comment on column job.loans_read is 'Number of open loans read from the storage modules';
comment on column job.fees_fines_read is 'Number of open fees/fines read from the storage modules';
comment on column job.skipped_records is 'Number of unreadable records of the storage modules: the rows of these records stay as they are';
comment on column job.token_refusals is 'Number of consecutive refusals of a token';
