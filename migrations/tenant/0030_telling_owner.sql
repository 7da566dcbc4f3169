-- Which instance says how patrons are looked at: instances with other settings, or with another view of the
-- broker's topics, must not overturn that in turns.
alter table telling add column owner uuid, add column owned_until timestamptz;
comment on column telling.owner is 'The instance that may change this row; any may once the lease has ended';
comment on column telling.owned_until is 'When the lease ends, unless the owner renews it';
