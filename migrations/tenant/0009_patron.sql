-- Patron groups from two sources: the last response of the users module, and the newest record of its topic. The newer of
-- the two counts (docs/decisions/0017).
create table patron (
    user_id uuid primary key,
    users_group text,
    users_group_at timestamptz,
    topic_group text,
    topic_group_stamp bytea,
    topic_group_at timestamptz,
    constraint patron_topic_group check ((topic_group_stamp is null) = (topic_group_at is null))
);
comment on table patron is 'Patron groups, by source';
comment on column patron.user_id is 'Id of the patron';
comment on column patron.users_group is 'Group in the last response of the users module; null if that had none';
comment on column patron.users_group_at is 'When the users module was last asked, by the clock of the database; null if never';
comment on column patron.topic_group is 'Group in the newest record of topic users.users; null if that had none';
comment on column patron.topic_group_stamp is 'Stamp of that record; null if there was none';
comment on column patron.topic_group_at is 'Time of that record, or of its arrival if its clock is ahead';
