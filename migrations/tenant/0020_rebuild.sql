-- What was said of one loan or fee/fine: rebuilds read it, and whoever asks why.
create index inbox_subject on inbox (subject);

-- What a rebuild found to be different: one row for each patron, and one for each loan and fee/fine.
create table rebuild_patron (
    rebuild_id uuid not null,
    user_id uuid not null,
    loans integer not null,
    fees_fines integer not null,
    counters boolean not null,
    loans_here integer,
    loans_there integer,
    blocked_before text[],
    blocked_after text[],
    applied_at timestamptz,
    primary key (rebuild_id, user_id)
);
comment on table rebuild_patron is 'Patrons of whom a rebuild found something to be different';
comment on column rebuild_patron.loans is 'How many loans differ in what counts';
comment on column rebuild_patron.loans_here is 'Open loans as things are';
comment on column rebuild_patron.loans_there is 'Open loans as things are to be';
comment on column rebuild_patron.counters is 'Whether the counters are not what a recount of the rows gives';
comment on column rebuild_patron.blocked_before is 'Conditions that block the patron as things are; null where the patron group is not known';
comment on column rebuild_patron.blocked_after is 'The same as things are to be';
comment on column rebuild_patron.applied_at is 'When it was put right';

create table rebuild_difference (
    rebuild_id uuid not null,
    subject uuid not null,
    is_loan boolean not null,
    user_id uuid not null,
    kind text not null check (kind in ('only_here', 'only_there', 'differs', 'hidden')),
    registers text[] not null,
    here jsonb,
    there jsonb,
    applied boolean not null default false,
    primary key (rebuild_id, user_id, subject)
);
comment on table rebuild_difference is 'Loans and fees/fines that a rebuild found to be different';
comment on column rebuild_difference.user_id is 'Whose it is to be, or else whose it was; the nil UUID where nobody is named';
comment on column rebuild_difference.kind is 'Open only here, open only in the source, open in both and different, or different in nothing that counts now';
comment on column rebuild_difference.registers is 'Which registers differ';
comment on column rebuild_difference.here is 'As it counts now; null where it is not open';
comment on column rebuild_difference.applied is 'Whether it was put right, where that is not told of the patron';
comment on column rebuild_difference.there is 'As it is to count; null where it is not open';
