-- How far old rows have been removed. The prune horizon applies wherever a row is inserted: an old check-out that is read again
-- does not open a loan whose row was pruned. Existing rows keep what they have (docs/decisions/0010).
create table housekeeping (
    singleton boolean primary key default true check (singleton),
    started_at timestamptz,
    prune_horizon bytea check (length(prune_horizon) = 8),
    inbox_oldest timestamptz,
    inbox_complete_since timestamptz
);
insert into housekeeping default values;
comment on table housekeeping is 'One row: how far old rows have been removed';
comment on column housekeeping.singleton is 'Always true: the table has one row';
comment on column housekeeping.started_at is 'When an instance last started housekeeping; other instances skip it for an interval';
comment on column housekeeping.prune_horizon is 'Loans and fees/fines that are closed and older may have been removed; null if none was ever removed (prefix of a stamp)';
comment on column housekeeping.inbox_oldest is 'Oldest inbox.received_at at the end of the last scan of the whole inbox';
comment on column housekeeping.inbox_complete_since is 'The inbox has every event that occurred and arrived since then; null if it never lost one';

-- A rebuild treats what the inbox lacks as never received, so it has to know since when the inbox is complete. The triggers
-- record every removal, by housekeeping or by an operator.
create function record_inbox_removal() returns trigger language plpgsql set search_path from current as $$
declare
    since timestamptz := clock_timestamp();
begin
    if tg_op = 'DELETE' then
        select max(greatest(received_at, occurred_at)) + interval '1 millisecond' into since from removed;
    end if;
    update housekeeping set inbox_complete_since = since where inbox_complete_since is null or inbox_complete_since < since;
    return null;
end $$;
comment on function record_inbox_removal is 'Moves housekeeping.inbox_complete_since past the removed events';
create trigger inbox_rows_deleted after delete on inbox
    referencing old table as removed for each statement execute function record_inbox_removal();
create trigger inbox_truncated after truncate on inbox
    for each statement execute function record_inbox_removal();
