-- A row says by its columns whether it is about the whole tenant or about one patron. Until now the nil UUID meant the
-- tenant, as if that were a patron with an id of its own, and one request with that id closed every loan of a tenant.
--
-- Instances of the version before read and write the row with the nil UUID in `horizon`. Two triggers make each of
-- them a copy of the other while both versions run. A later release removes that row, the triggers and their functions.
create table tenant_horizon (
    one boolean primary key default true check (one),
    horizon bytea not null check (length(horizon) = 8),
    loans_horizon bytea check (length(loans_horizon) = 8)
);
comment on table tenant_horizon is 'One row at most: up to when complete snapshots of the whole tenant spoke';
comment on column tenant_horizon.horizon is 'Of loans and of fees/fines';
comment on column tenant_horizon.loans_horizon is 'Up to when storage deleted all loans, which says nothing of fees/fines';
comment on table horizon is 'Up to when a complete snapshot spoke, per patron; the row of the nil UUID is a copy of tenant_horizon, for the version before';

-- They name the table of the schema in which they are fired: shadows have both tables as well.
create function copy_horizon_of_tenant() returns trigger language plpgsql as $$
begin
    execute format(
        'insert into %I.tenant_horizon as t (horizon, loans_horizon) values ($1, $2)
         on conflict (one) do update set
           horizon = greatest(t.horizon, excluded.horizon),
           loans_horizon = greatest(t.loans_horizon, excluded.loans_horizon)
           where (greatest(t.horizon, excluded.horizon), greatest(t.loans_horizon, excluded.loans_horizon))
                 is distinct from (t.horizon, t.loans_horizon)', tg_table_schema)
      using new.horizon, new.loans_horizon;
    return null;
end
$$;
comment on function copy_horizon_of_tenant is 'What the version before writes of the tenant, into its own table';

create function copy_tenant_horizon() returns trigger language plpgsql as $$
begin
    execute format(
        'insert into %I.horizon as t (user_id, horizon, loans_horizon) values ($1, $2, $3)
         on conflict (user_id) do update set
           horizon = greatest(t.horizon, excluded.horizon),
           loans_horizon = greatest(t.loans_horizon, excluded.loans_horizon)
           where (greatest(t.horizon, excluded.horizon), greatest(t.loans_horizon, excluded.loans_horizon))
                 is distinct from (t.horizon, t.loans_horizon)', tg_table_schema)
      using '00000000-0000-0000-0000-000000000000'::uuid, new.horizon, new.loans_horizon;
    return null;
end
$$;
comment on function copy_tenant_horizon is 'The same the other way, for the version before to read';

create trigger copy_horizon_of_tenant after insert or update on horizon
    for each row when (new.user_id = '00000000-0000-0000-0000-000000000000')
    execute function copy_horizon_of_tenant();
create trigger copy_tenant_horizon after insert or update on tenant_horizon
    for each row execute function copy_tenant_horizon();

insert into tenant_horizon (horizon, loans_horizon)
select horizon, loans_horizon from horizon where user_id = '00000000-0000-0000-0000-000000000000';

-- That storage deleted all loans is about none of them.
alter table inbox alter column subject drop not null;
update inbox set subject = null where subject = '00000000-0000-0000-0000-000000000000';
comment on column inbox.subject is 'The loan, the fee/fine or the patron; null where it is about all loans of the tenant (the nil UUID, where the version before wrote it)';

-- A difference may be about a loan or a fee/fine of nobody that is known. It counts for nobody either.
alter table rebuild_difference drop constraint rebuild_difference_pkey;
create unique index rebuild_difference_subject on rebuild_difference (rebuild_id, user_id, subject);
alter table rebuild_difference alter column user_id drop not null;
update rebuild_difference set user_id = null where user_id = '00000000-0000-0000-0000-000000000000';
comment on column rebuild_difference.user_id is 'The patron to be, or else the one before; null where nobody is named';
