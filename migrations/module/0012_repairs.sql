-- A repair may leave something standing, or be too large to be applied unasked: operators must know of either. Which
-- kinds of incidents there are is a matter of the code: two versions may know different ones.
alter table incident drop constraint incident_kind_check;
alter table incident add constraint incident_kind_check check (kind ~ '^[a-z_]+$');
alter table incident add column rebuild_id uuid;
comment on column incident.rebuild_id is 'The rebuild that it is about; then it is about no topic, which is empty';
create index incident_rebuild on incident (rebuild_id) where resolved_at is null;

alter table rebuild add column passed_over integer not null default 0;
comment on column rebuild.passed_over is 'How many records of the storage modules could not be read: what is known of them stays';
