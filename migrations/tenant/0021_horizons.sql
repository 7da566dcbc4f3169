-- Which complete snapshots speak of a loan depends on whose it is, and that may change. So what a row keeps
-- of its own is how far was pruned when it was made; the rest is looked up whenever it is written. No
-- snapshot of one patron has spoken before this migration.
alter table loan add column pruned_horizon bytea;
alter table fee_fine add column pruned_horizon bytea;
update loan set pruned_horizon = horizon where horizon <> '';
update fee_fine set pruned_horizon = horizon where horizon <> '';
comment on column loan.pruned_horizon is 'How far was pruned when the row was made: the part of horizon that stays whosever it is';
comment on column fee_fine.pruned_horizon is 'As that of a loan';
comment on column loan.spoken_horizon is 'Not used any more';
comment on column fee_fine.spoken_horizon is 'Not used any more';
