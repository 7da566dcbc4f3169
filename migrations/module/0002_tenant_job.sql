-- Install and upgrade jobs. They belong to the module, because a job starts before the schema of its tenant exists. Any
-- instance answers for a job, and claims it if its lease has expired.
create table tenant_job (
    id uuid primary key,
    tenant text not null,
    tenant_attributes jsonb not null,
    complete boolean not null default false,
    error text,
    messages text[] not null default '{}',
    created_at timestamptz not null,
    lease_expires_at timestamptz not null,
    lease_holder uuid
);
create index tenant_job_open on tenant_job (lease_expires_at) where not complete;

comment on table tenant_job is 'Install and upgrade jobs of POST /_/tenant, until the client deletes them';
comment on column tenant_job.id is 'Id of the job, as in GET /_/tenant/{id}';
comment on column tenant_job.tenant is 'The tenant';
comment on column tenant_job.tenant_attributes is 'Body of the request';
comment on column tenant_job.complete is 'Whether the job has ended';
comment on column tenant_job.error is 'Why the job failed; null if it did not';
comment on column tenant_job.messages is 'Messages for the client, for example whether mod-pubsub was informed';
comment on column tenant_job.created_at is 'When the job was created, by the clock of the database';
comment on column tenant_job.lease_expires_at is 'End of the lease: until then only the holder works on the job';
comment on column tenant_job.lease_holder is 'Random id of the current lease; each claim makes a new one';
