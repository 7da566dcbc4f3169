-- Which tenants this module is enabled for. Instances load it when they start and hear of changes by
-- NOTIFY on channel mod_patron_blocks_tenant; ingest asks it about tenants that it does not know.
create table tenant (
    tenant text primary key check (tenant ~ '^[a-z][a-z0-9_]{0,30}$'),
    enabled boolean not null,
    module_id text not null,
    changed_at timestamptz not null
);
comment on table tenant is 'Tenants that were enabled at some time, and whether they are now';
comment on column tenant.module_id is 'The module_to of the last enabling, for example mod-patron-blocks-2.0.0';
