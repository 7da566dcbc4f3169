-- Since when the inbox of a tenant may hold everything, and who works on a tenant job. Both by the database's clock:
-- those of instances differ.
--
-- What happened before a tenant was enabled was passed by in topics of collections. Only its filling reads that, and
-- the inbox does not have it. A trigger notes the time, because an older version may enable a tenant as well.
alter table tenant add column enabled_at timestamptz not null default clock_timestamp();
comment on column tenant.enabled_at is 'When it was enabled last, by the database''s clock; for one from before this column, when that was made';

create function note_enabling() returns trigger language plpgsql as $$
begin
    new.enabled_at := clock_timestamp();
    return new;
end
$$;
create trigger note_enabling before update of enabled on tenant
    for each row when (new.enabled and not old.enabled) execute function note_enabling();

-- Whoever has lost a job to another instance may not write for it any more.
alter table tenant_job add column holder uuid;
comment on column tenant_job.holder is 'Who took it last: made for each taking';
