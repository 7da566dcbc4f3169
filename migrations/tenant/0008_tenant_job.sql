-- Outcomes of POST /_/tenant, so that any instance can answer for them.
create table tenant_job (
    id uuid primary key,
    tenant_attributes jsonb not null,
    complete boolean not null,
    error text,
    messages jsonb not null default '[]',
    created_at timestamptz not null
);
comment on table tenant_job is 'Install and upgrade jobs until the client deletes them';
