alter table rebuild add column together text;
comment on column rebuild.together is 'Rebuilds with the same are worked on together, where tenants share topics: those are then read once';
