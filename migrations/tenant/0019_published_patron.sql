-- What was last published about each patron.
create table published_patron (
    user_id uuid primary key,
    blocked jsonb,
    approaching jsonb,
    reevaluate_at timestamptz
);
create index published_patron_reevaluate_at on published_patron (reevaluate_at) where reevaluate_at is not null;
comment on table published_patron is 'Last published blocks of each patron, and when time alone may change them';
comment on column published_patron.user_id is 'Id of the patron';
comment on column published_patron.blocked is 'Last published blocks; null if the patron has none';
comment on column published_patron.approaching is 'Last published limits that the patron approaches; null if there are none';
comment on column published_patron.reevaluate_at is 'When the next loan becomes overdue, or an overdue recall a day older; null if time changes nothing';
