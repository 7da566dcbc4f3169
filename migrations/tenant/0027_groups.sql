-- The newer of an answer of the users module and a record of its topic counts (docs/decisions/0017), whatever
-- topics there are. Where others are told of blocks, all patrons are looked at once by that rule.
comment on column telling.by_topic is 'Whether there was a topic of users; versions before put its records before any answer';
comment on column patron.known_at is 'When the users module was last asked, by the clock of the database; null if never';
comment on column patron.told_at is 'The time of that record, or of its arrival where its clock is ahead';

-- Groups are asked for again and again. An answer that says what was known before is no reason to look.
create or replace function note_group() returns trigger language plpgsql set search_path from current as $$
declare
    before text;
    after text;
begin
    after := case when new.told_at >= new.known_at or new.known_at is null then new.told_group else new.patron_group end;
    if tg_op = 'UPDATE' then
        before := case when old.told_at >= old.known_at or old.known_at is null then old.told_group else old.patron_group end;
        if lower(before) is not distinct from lower(after) then
            return null;
        end if;
    end if;
    insert into touched_patron (user_id, cause) values (new.user_id, 'patron_group_changed');
    return null;
end $$;

insert into policy_change (patron_group, cause)
select null, 'patron_group_changed'
 where exists (select from pg_trigger
                where tgrelid = 'patron_counter'::regclass and tgname = 'note_inserted');
