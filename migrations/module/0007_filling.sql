-- What a tenant's state rests on. Whoever is enabled is filled from the topics first; where they have been cut,
-- something is missing until the storage modules were asked.
alter table tenant add column filled_by uuid;
alter table tenant add column lacks_before timestamptz;
comment on column tenant.filled_by is 'The rebuild that fills it with what happened before; null once that has ended';
comment on column tenant.lacks_before is 'Not all that happened before this is known; null where all is';
