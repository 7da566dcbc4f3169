-- What has gone from the inbox. A rebuild takes what the inbox lacks for never said, so it must know from when on the
-- inbox lacks nothing. Triggers note it, whoever removes rows: housekeeping, an older version, or an operator.
-- Rebuilds note what topics have and the inbox has not.
alter table housekeeping add column inbox_since timestamptz;
comment on column housekeeping.inbox_since is 'No event that came and happened since then is missing in the inbox; null where none ever was';

-- What went before nobody has noted.
update housekeeping set inbox_since = clock_timestamp()
 where begun_at is not null or exists (select from inbox) or exists (select from loan)
    or exists (select from fee_fine);

create function note_inbox() returns trigger language plpgsql set search_path from current as $$
declare
    since timestamptz := clock_timestamp();
begin
    if tg_op = 'DELETE' then
        select max(greatest(received_at, occurred_at)) + interval '1 millisecond' into since from gone;
    end if;
    update housekeeping set inbox_since = since where inbox_since is null or inbox_since < since;
    return null;
end
$$;
create trigger note_inbox after delete on inbox
    referencing old table as gone for each statement execute function note_inbox();
create trigger note_inbox_emptied after truncate on inbox
    for each statement execute function note_inbox();
