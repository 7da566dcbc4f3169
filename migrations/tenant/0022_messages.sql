-- What others are told (docs/decisions/0019): of which patrons something has changed, what was told of each
-- last, and the messages. Triggers note what has changed, in the transaction that changes it; they are there
-- only while messages are wanted, so that nothing is paid for otherwise.
create table touched_patron (
    later boolean not null default false,
    number bigint generated always as identity,
    user_id uuid not null,
    cause text not null,
    primary key (later, number)
);
-- Rows come and go: what is dead has to go at once, or whoever takes them walks over it.
alter table touched_patron set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table touched_patron is 'Patrons whose blocks may have changed and are to be looked at; one may stand here several times';
comment on column touched_patron.later is 'Of a change of what the library has set, which concerns many: after what happens to single patrons';
comment on column touched_patron.cause is 'From the closed list in src/blocks/told.rs';

create table policy_change (
    number bigint generated always as identity primary key,
    patron_group text,
    cause text not null
);
comment on table policy_change is 'Changes of limits and conditions whose patrons are not noted one by one yet';
comment on column policy_change.patron_group is 'Whom it concerns; null for all';

create table told_patron (
    user_id uuid primary key,
    blocked jsonb,
    approaching jsonb,
    look_at timestamptz
);
create index told_patron_look_at on told_patron (look_at) where look_at is not null;
comment on table told_patron is 'What was told of a patron last, and when time alone may change it';
comment on column told_patron.blocked is 'As told of the blocks; null where the patron has none';
comment on column told_patron.approaching is 'As told of limits that are near; null where none is';
comment on column told_patron.look_at is 'When the next loan gets overdue, or an overdue recall a day older';

-- What the notes and what was told depend on, besides what is noted.
create table telling (
    one boolean primary key default true check (one),
    by_topic boolean,
    approaching_percent smallint
);
insert into telling default values;
comment on table telling is 'One row: how patrons were last looked at';
comment on column telling.by_topic is 'Whether what the topic told of patron groups counted before all else';
comment on column telling.approaching_percent is 'Within so many percent a limit was near';

create sequence message_sequence;
comment on sequence message_sequence is 'Never below the microseconds since 1970: a tenant that comes again goes on above what was told before';
create table message_outbox (
    sequence bigint primary key,
    id uuid not null,
    kafka_topic text not null,
    key text not null,
    headers jsonb not null,
    payload text not null,
    status text not null default 'NEW' check (status in ('NEW', 'SENT')),
    created_at timestamptz not null default now(),
    sent_at timestamptz
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index message_outbox_new on message_outbox (sequence) where status = 'NEW';
comment on table message_outbox is 'Messages, written in the transaction that makes the change they tell of';
comment on column message_outbox.sequence is 'Their order; a greater one of the same patron is the later';
comment on column message_outbox.id is 'The event''s id: by it a consumer knows what comes twice';

create function note_patrons() returns trigger language plpgsql set search_path from current as $$
begin
    insert into touched_patron (user_id, cause)
    select user_id, coalesce(nullif(current_setting('patron_blocks.cause', true), ''), 'event') from changed;
    return null;
end $$;

create function note_group() returns trigger language plpgsql set search_path from current as $$
begin
    insert into touched_patron (user_id, cause) values (new.user_id, 'patron_group_changed');
    return null;
end $$;

create function note_limit() returns trigger language plpgsql set search_path from current as $$
begin
    insert into policy_change (patron_group, cause)
    select distinct named, 'limit_changed'
      from (values (old.jsonb ->> 'patronGroupId'), (new.jsonb ->> 'patronGroupId')) as groups (named)
     where named is not null;
    return null;
end $$;

create function note_condition() returns trigger language plpgsql set search_path from current as $$
begin
    insert into policy_change (patron_group, cause)
    select distinct jsonb ->> 'patronGroupId', 'condition_changed'
      from patron_block_limits
     where lower(jsonb ->> 'conditionId') = coalesce(new.id, old.id)::text
       and jsonb ->> 'patronGroupId' is not null;
    return null;
end $$;

-- Nobody else may write the tenant's rows meanwhile. Begun again, all patrons are looked at: what has changed
-- in between is told, and nothing else.
create function set_telling(wanted boolean) returns boolean language plpgsql set search_path from current as $$
begin
    if wanted = exists (select from pg_trigger
                         where tgrelid = 'patron_counter'::regclass and tgname = 'note_inserted') then
        return false;
    end if;
    if wanted then
        create trigger note_inserted after insert on patron_counter
            referencing new table as changed for each statement execute function note_patrons();
        create trigger note_updated after update on patron_counter
            referencing new table as changed for each statement execute function note_patrons();
        create trigger note_group_inserted after insert on patron
            for each row execute function note_group();
        create trigger note_group_updated after update on patron
            for each row when (
                (old.patron_group, old.told_group, old.known_at is null, old.told_at is null, old.told_at >= old.known_at)
                is distinct from
                (new.patron_group, new.told_group, new.known_at is null, new.told_at is null, new.told_at >= new.known_at))
            execute function note_group();
        create trigger note_limit after insert or update or delete on patron_block_limits
            for each row execute function note_limit();
        create trigger note_condition after insert or update or delete on patron_block_conditions
            for each row execute function note_condition();
        insert into policy_change (patron_group, cause) values (null, 'publishing_enabled');
    else
        -- Whoever changes a condition holds it and reads limits.
        drop trigger note_condition on patron_block_conditions;
        drop trigger note_limit on patron_block_limits;
        drop trigger note_group_inserted on patron;
        drop trigger note_group_updated on patron;
        drop trigger note_inserted on patron_counter;
        drop trigger note_updated on patron_counter;
        truncate touched_patron, policy_change;
    end if;
    return true;
end $$;
comment on function set_telling is 'Has what changes be noted, or not any more; tells whether that is new';
