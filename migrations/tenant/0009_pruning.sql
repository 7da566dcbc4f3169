-- What ended long ago is forgotten. An old check-out that is read again must not open a loan that was
-- forgotten, so up to where this went is kept, and holds wherever a row is made; rows that are there keep
-- what they know. The generated columns stay as they are: another expression would rewrite the tables
-- while nobody could read them (docs/decisions/0010).
create table housekeeping (
    one boolean primary key default true check (one),
    begun_at timestamptz,
    pruned_before bytea check (length(pruned_before) = 8),
    inbox_oldest timestamptz
);
insert into housekeeping default values;
comment on table housekeeping is 'One row: how far what is old has been removed';
comment on column housekeeping.begun_at is 'When an instance last began; the others let it be';
comment on column housekeeping.pruned_before is 'Loans and fees/fines not open and older than this may be gone: older evidence opens no new row';
comment on column housekeeping.inbox_oldest is 'The oldest received_at in the inbox when it was last walked through';

alter table loan add column spoken_horizon bytea;
alter table fee_fine add column spoken_horizon bytea;
comment on column loan.horizon is 'Older evidence opens nothing: how far complete snapshots spoke, and how far was pruned when the row was made (8 bytes, prefix of a stamp)';
comment on column fee_fine.horizon is 'As that of a loan';
comment on column loan.spoken_horizon is 'How far complete snapshots spoke when the row was made: the part of horizon that also goes into rows that are there';
comment on column fee_fine.spoken_horizon is 'As that of a loan';
