-- An enabling has an identity that upgrades keep: the instant at which the tenant was enabled. The trigger
-- sets it, so that an instance of the version before, and an operator, set it as well.
alter table tenant add column enabled_at timestamptz not null default clock_timestamp();
update tenant set enabled_at = changed_at;
comment on column tenant.enabled_at is 'When the tenant was enabled last, by the clock of the database; an upgrade leaves it';
comment on column tenant.changed_at is 'When the row was last written';

create function note_enabling() returns trigger language plpgsql as $$
begin
    -- Two enablings never share an instant, whatever the clock does.
    new.enabled_at := greatest(clock_timestamp(), old.enabled_at + interval '1 microsecond');
    return new;
end $$;
create trigger note_enabling before update of enabled on tenant
    for each row when (new.enabled and not old.enabled) execute function note_enabling();

-- Records of tenant collections that wait for a tenant are retried by the service itself.
alter table dead_letter add column tenant text;
create index dead_letter_waiting on dead_letter (tenant, dead_letter_id) where tenant is not null;
comment on column dead_letter.tenant is 'The tenant that can''t be written for now; the service retries the record. Null for all other records';
