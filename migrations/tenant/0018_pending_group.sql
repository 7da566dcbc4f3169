-- Queue of changes of limits, conditions and settings. The detect worker replaces each row by rows of pending_patron.
create table pending_group (
    number bigint generated always as identity primary key,
    patron_group text,
    cause text not null
);
comment on table pending_group is 'Changes whose patrons are not in pending_patron yet';
comment on column pending_group.number is 'Order of the changes';
comment on column pending_group.patron_group is 'The patron group that the change concerns; null for all patrons';
comment on column pending_group.cause is 'Name of a Cause of src/blocks';
