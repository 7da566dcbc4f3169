-- Tenants for which the module is, or was, enabled. Each instance loads the table when it starts and after each NOTIFY on
-- channel mod_patron_blocks_tenant. Ingest reads it for a tenant that it does not know.
create table tenant (
    tenant text primary key check (tenant ~ '^[a-z][a-z0-9_]{0,30}$'),
    enabled boolean not null,
    enabled_at timestamptz not null default clock_timestamp(),
    module_id text not null,
    changed_at timestamptz not null,
    initial_fill_id uuid,
    incomplete_before timestamptz
);
comment on table tenant is 'Tenants for which the module is or was enabled';
comment on column tenant.tenant is 'Tenant id';
comment on column tenant.enabled is 'Whether the module is enabled for the tenant now';
comment on column tenant.enabled_at is 'When the tenant was last enabled, by the clock of the database: identifies the enabling; an upgrade keeps it';
comment on column tenant.module_id is 'module_to of the last enabling, for example mod-patron-blocks-2.0.0';
comment on column tenant.changed_at is 'When the row was last written';
comment on column tenant.initial_fill_id is 'The rebuild that loads what happened before the enabling; null once it has ended';
comment on column tenant.incomplete_before is 'The state lacks events from before this instant; null if it lacks none';

-- The trigger sets the instant, so that a change by an operator sets it as well.
create function set_enabled_at() returns trigger language plpgsql as $$
begin
    -- Two enablings never share an instant, whatever the clock does.
    new.enabled_at := greatest(clock_timestamp(), old.enabled_at + interval '1 microsecond');
    return new;
end $$;
comment on function set_enabled_at is 'Sets tenant.enabled_at when a tenant is enabled again';
create trigger tenant_enabled before update of enabled on tenant
    for each row when (new.enabled and not old.enabled) execute function set_enabled_at();
