-- Detection of changes (docs/decisions/0019). The triggers exist only while block events are enabled, so that a tenant without
-- them pays nothing.
create function add_pending_patrons() returns trigger language plpgsql set search_path from current as $$
begin
    insert into pending_patron (user_id, cause)
    select user_id, coalesce(nullif(current_setting('patron_blocks.cause', true), ''), 'event') from changed;
    return null;
end $$;
comment on function add_pending_patrons is 'Adds the patrons whose counters were written';

-- A group is requested again and again. A response that changes nothing adds no row.
create function add_pending_patron_of_group() returns trigger language plpgsql set search_path from current as $$
declare
    before text;
    after text;
begin
    after := case when new.topic_group_at >= new.users_group_at or new.users_group_at is null then new.topic_group else new.users_group end;
    if tg_op = 'UPDATE' then
        before := case when old.topic_group_at >= old.users_group_at or old.users_group_at is null then old.topic_group else old.users_group end;
        if lower(before) is not distinct from lower(after) then
            return null;
        end if;
    end if;
    insert into pending_patron (user_id, cause) values (new.user_id, 'patron_group_changed');
    return null;
end $$;
comment on function add_pending_patron_of_group is 'Adds a patron whose group has changed';

create function add_pending_group_of_limit() returns trigger language plpgsql set search_path from current as $$
begin
    insert into pending_group (patron_group, cause)
    select distinct named, 'limit_changed'
      from (values (old.jsonb ->> 'patronGroupId'), (new.jsonb ->> 'patronGroupId')) as groups (named)
     where named is not null;
    return null;
end $$;
comment on function add_pending_group_of_limit is 'Adds the patron groups of a limit that has changed';

create function add_pending_groups_of_condition() returns trigger language plpgsql set search_path from current as $$
begin
    insert into pending_group (patron_group, cause)
    select distinct jsonb ->> 'patronGroupId', 'condition_changed'
      from patron_block_limits
     where lower(jsonb ->> 'conditionId') = coalesce(new.id, old.id)::text
       and jsonb ->> 'patronGroupId' is not null;
    return null;
end $$;
comment on function add_pending_groups_of_condition is 'Adds the patron groups that have a limit of a condition that has changed';

-- The caller holds the tenant lock exclusively. After enabling, all patrons are evaluated once: what changed in the meantime is
-- published, and nothing else.
create function enable_block_events(enabled boolean) returns boolean language plpgsql set search_path from current as $$
begin
    if enabled = exists (select from pg_trigger
                          where tgrelid = 'patron_counter'::regclass and tgname = 'pending_counter_inserted') then
        return false;
    end if;
    if enabled then
        create trigger pending_counter_inserted after insert on patron_counter
            referencing new table as changed for each statement execute function add_pending_patrons();
        create trigger pending_counter_updated after update on patron_counter
            referencing new table as changed for each statement execute function add_pending_patrons();
        create trigger pending_patron_inserted after insert on patron
            for each row execute function add_pending_patron_of_group();
        create trigger pending_patron_updated after update on patron
            for each row when (
                (old.users_group, old.topic_group, old.users_group_at is null, old.topic_group_at is null, old.topic_group_at >= old.users_group_at)
                is distinct from
                (new.users_group, new.topic_group, new.users_group_at is null, new.topic_group_at is null, new.topic_group_at >= new.users_group_at))
            execute function add_pending_patron_of_group();
        create trigger pending_limit_changed after insert or update or delete on patron_block_limits
            for each row execute function add_pending_group_of_limit();
        create trigger pending_condition_changed after insert or update or delete on patron_block_conditions
            for each row execute function add_pending_groups_of_condition();
        insert into pending_group (patron_group, cause) values (null, 'publishing_enabled');
    else
        -- A transaction that changes a condition locks conditions first and then reads limits: the same order here.
        drop trigger pending_condition_changed on patron_block_conditions;
        drop trigger pending_limit_changed on patron_block_limits;
        drop trigger pending_patron_inserted on patron;
        drop trigger pending_patron_updated on patron;
        drop trigger pending_counter_inserted on patron_counter;
        drop trigger pending_counter_updated on patron_counter;
        truncate pending_patron, pending_group;
    end if;
    return true;
end $$;
comment on function enable_block_events is 'Creates or drops the triggers; returns whether that changed anything';
