-- What storage modules tell by their topics (docs/decisions/0017): patron groups, which are a register like
-- those of a loan, beside what the users module answered when it was asked; and that all loans were deleted,
-- which speaks of loans alone. An instance of the version before reads and writes these tables on.
alter table patron
    alter column patron_group drop not null,
    alter column known_at drop not null,
    add column told_group text,
    add column told_stamp bytea,
    add column told_at timestamptz,
    add constraint patron_told check ((told_stamp is null) = (told_at is null));
comment on table patron is 'Patron groups: as the users module last answered, and as its topic told';
comment on column patron.patron_group is 'As the users module answered at known_at; none if it knew none';
comment on column patron.known_at is 'When the users module was last asked; null if never';
comment on column patron.told_group is 'As the topic users.users told; none if it told that there is none';
comment on column patron.told_stamp is 'Newest record of the topic about this user; null if there was none';
comment on column patron.told_at is 'The time of that record';

alter table horizon add column loans_horizon bytea check (length(loans_horizon) = 8);
comment on column horizon.loans_horizon is 'Up to when storage deleted all loans, which says nothing of fees/fines; of the whole tenant only';
