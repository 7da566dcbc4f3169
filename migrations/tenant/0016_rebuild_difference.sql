-- Differences that a rebuild found, per loan and fee/fine.
create table rebuild_difference (
    rebuild_id uuid not null,
    subject uuid not null,
    is_loan boolean not null,
    user_id uuid,
    kind text not null check (kind in ('only_current', 'only_target', 'differs', 'insignificant')),
    registers text[] not null,
    current_state jsonb,
    target_state jsonb,
    applied boolean not null default false
);
-- Not a primary key, because user_id may be null.
create unique index rebuild_difference_subject on rebuild_difference (rebuild_id, user_id, subject);

comment on table rebuild_difference is 'Loans and fees/fines for which a rebuild found a difference';
comment on column rebuild_difference.rebuild_id is 'The rebuild';
comment on column rebuild_difference.subject is 'Id of the loan or fee/fine';
comment on column rebuild_difference.is_loan is 'Whether the subject is a loan';
comment on column rebuild_difference.user_id is 'The patron in the target state, or else in the current state; null if neither names one';
comment on column rebuild_difference.kind is 'Open only in the current state, only in the target state, in both with a difference, or different without effect on any answer';
comment on column rebuild_difference.registers is 'Names of the registers that differ';
comment on column rebuild_difference.current_state is 'The subject in the current state; null if it is unknown there';
comment on column rebuild_difference.target_state is 'The subject in the target state; null if it is unknown there';
comment on column rebuild_difference.applied is 'Whether an insignificant difference was applied; for all others see rebuild_patron.applied_at';
