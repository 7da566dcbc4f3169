-- Install and upgrade jobs. They belong to the module, because a job begins before its tenant's schema is
-- there; whichever instance is asked answers for them, and takes over one whose instance has died.
create table tenant_job (
    id uuid primary key,
    tenant text not null,
    tenant_attributes jsonb not null,
    complete boolean not null default false,
    error text,
    messages text[] not null default '{}',
    created_at timestamptz not null,
    held_until timestamptz not null
);
create index tenant_job_held_until_idx on tenant_job (held_until) where not complete;

comment on table tenant_job is 'POST /_/tenant that installs or upgrades, until the client deletes the job';
comment on column tenant_job.error is 'Why it failed, if it did';
comment on column tenant_job.messages is 'What else there is to say, such as whether mod-pubsub was told';
comment on column tenant_job.held_until is 'Until then its instance works on it; afterwards any other may';
