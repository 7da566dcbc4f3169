-- Merges loans and fees/fines into their rows and adjusts the counters of their patrons.
--
-- Each register stores the value with the greater stamp, so order, repetition and batching have no influence. The tables
-- generate the derived columns. All four parts write in key order, so two writers cannot deadlock.
--
-- Parameters: one array for each column of LoanColumns ($1 to $18) and of FeeColumns ($19 to $26) in columns.rs. {schema} is
-- the schema of the tenant.

with horizons as (
    -- Older evidence opens nothing. The prune horizon applies only to the insertion of a row, so an older loan that is
    -- already open remains open.
    select
        (select prune_horizon from {schema}.housekeeping) as pruned,
        (select greatest(horizon, loans_horizon) from {schema}.tenant_horizon) as loans,
        (select horizon from {schema}.tenant_horizon) as fees
), merged_loans as (
    insert into {schema}.loan as t (
        loan_id, check_out_stamp, check_out_user, check_out_due_date, grace_duration, grace_interval, grace_minutes,
        snapshot_stamp, snapshot_user, due_stamp, changed_due_date, due_by_recall, lost_stamp, lost_value,
        claimed_stamp, claimed_value, closed_stamp, fallback_user, prune_horizon, horizon)
    select x.*, tenant.pruned, coalesce(greatest(patron.horizon, tenant.pruned, tenant.loans), '')
    from unnest(
            $1::uuid[], $2::bytea[], $3::uuid[], $4::timestamptz[], $5::int4[], $6::text[], $7::int8[],
            $8::bytea[], $9::uuid[], $10::bytea[], $11::timestamptz[], $12::bool[], $13::bytea[], $14::bool[],
            $15::bytea[], $16::bool[], $17::bytea[], $18::uuid[])
        as x (
            loan_id, check_out_stamp, check_out_user, check_out_due_date, grace_duration, grace_interval, grace_minutes,
            snapshot_stamp, snapshot_user, due_stamp, changed_due_date, due_by_recall, lost_stamp, lost_value,
            claimed_stamp, claimed_value, closed_stamp, fallback_user)
    left join {schema}.patron_horizon patron on patron.user_id = {schema}.loan_owner(
        x.check_out_stamp, x.check_out_user, x.snapshot_stamp, x.snapshot_user, null)
    cross join horizons tenant
    order by x.loan_id
    on conflict (loan_id) do update set
        -- Register check-out.
        check_out_stamp = greatest(t.check_out_stamp, excluded.check_out_stamp),
        check_out_user = {schema}.newer(
            excluded.check_out_stamp, excluded.check_out_user, t.check_out_stamp, t.check_out_user),
        check_out_due_date = {schema}.newer(
            excluded.check_out_stamp, excluded.check_out_due_date, t.check_out_stamp, t.check_out_due_date),
        grace_duration = {schema}.newer(
            excluded.check_out_stamp, excluded.grace_duration, t.check_out_stamp, t.grace_duration),
        grace_interval = {schema}.newer(
            excluded.check_out_stamp, excluded.grace_interval, t.check_out_stamp, t.grace_interval),
        grace_minutes = {schema}.newer(
            excluded.check_out_stamp, excluded.grace_minutes, t.check_out_stamp, t.grace_minutes),
        -- Register snapshot.
        snapshot_stamp = greatest(t.snapshot_stamp, excluded.snapshot_stamp),
        snapshot_user = {schema}.newer(
            excluded.snapshot_stamp, excluded.snapshot_user, t.snapshot_stamp, t.snapshot_user),
        -- Register due.
        due_stamp = greatest(t.due_stamp, excluded.due_stamp),
        changed_due_date = {schema}.newer(
            excluded.due_stamp, excluded.changed_due_date, t.due_stamp, t.changed_due_date),
        due_by_recall = {schema}.newer(
            excluded.due_stamp, excluded.due_by_recall, t.due_stamp, t.due_by_recall),
        -- Registers lost and claimed returned.
        lost_stamp = greatest(t.lost_stamp, excluded.lost_stamp),
        lost_value = {schema}.newer(excluded.lost_stamp, excluded.lost_value, t.lost_stamp, t.lost_value),
        claimed_stamp = greatest(t.claimed_stamp, excluded.claimed_stamp),
        claimed_value = {schema}.newer(
            excluded.claimed_stamp, excluded.claimed_value, t.claimed_stamp, t.claimed_value),
        closed_stamp = greatest(t.closed_stamp, excluded.closed_stamp),
        fallback_user = greatest(t.fallback_user, excluded.fallback_user),
        -- The snapshot horizon is that of the owner after the merge.
        horizon = coalesce(greatest(
            t.prune_horizon,
            (select loans from horizons),
            case when exists (select from {schema}.patron_horizon) then (
                select patron.horizon from {schema}.patron_horizon patron where patron.user_id = {schema}.loan_owner(
                    greatest(t.check_out_stamp, excluded.check_out_stamp),
                    {schema}.newer(
                        excluded.check_out_stamp, excluded.check_out_user, t.check_out_stamp, t.check_out_user),
                    greatest(t.snapshot_stamp, excluded.snapshot_stamp),
                    {schema}.newer(
                        excluded.snapshot_stamp, excluded.snapshot_user, t.snapshot_stamp, t.snapshot_user),
                    null)) end), ''),
        -- What the old row counted.
        previous_user = t.user_id,
        previous_open = t.is_open,
        previous_lost = t.is_open and t.lost and not t.claimed_returned,
        previous_claimed = t.is_open and t.claimed_returned,
        previous_recall = t.is_open and t.recall and not t.claimed_returned
    returning
        t.user_id, t.is_open, t.lost, t.claimed_returned, t.recall,
        t.previous_user, t.previous_open, t.previous_lost, t.previous_claimed, t.previous_recall
), merged_fees as (
    insert into {schema}.fee_fine as t (
        fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id, user_stamp, user_id,
        prune_horizon, horizon)
    select x.*, tenant.pruned, coalesce(greatest(patron.horizon, tenant.pruned, tenant.fees), '')
    from unnest(
            $19::uuid[], $20::bytea[], $21::numeric[], $22::uuid[], $23::bytea[], $24::uuid[], $25::bytea[],
            $26::uuid[])
        as x (fee_fine_id, balance_stamp, balance, loan_id, type_stamp, fee_fine_type_id, user_stamp, user_id)
    left join {schema}.patron_horizon patron on patron.user_id = x.user_id
    cross join horizons tenant
    order by x.fee_fine_id
    on conflict (fee_fine_id) do update set
        -- Register balance.
        balance_stamp = greatest(t.balance_stamp, excluded.balance_stamp),
        balance = {schema}.newer(excluded.balance_stamp, excluded.balance, t.balance_stamp, t.balance),
        loan_id = {schema}.newer(excluded.balance_stamp, excluded.loan_id, t.balance_stamp, t.loan_id),
        -- Registers type and owner.
        type_stamp = greatest(t.type_stamp, excluded.type_stamp),
        fee_fine_type_id = {schema}.newer(
            excluded.type_stamp, excluded.fee_fine_type_id, t.type_stamp, t.fee_fine_type_id),
        user_stamp = greatest(t.user_stamp, excluded.user_stamp),
        user_id = {schema}.newer(excluded.user_stamp, excluded.user_id, t.user_stamp, t.user_id),
        horizon = coalesce(greatest(
            t.prune_horizon,
            (select fees from horizons),
            case when exists (select from {schema}.patron_horizon) then (
                select patron.horizon from {schema}.patron_horizon patron where patron.user_id = {schema}.newer(
                    excluded.user_stamp, excluded.user_id, t.user_stamp, t.user_id)) end), ''),
        -- What the old row counted.
        previous_user = t.user_id,
        previous_open = t.is_open,
        previous_balance = case when t.is_open then t.balance else 0 end
    returning t.user_id, t.is_open, t.balance, t.previous_user, t.previous_open, t.previous_balance
), delta as (
    select
        user_id, 1 as loans, (lost and not claimed_returned)::int as lost, claimed_returned::int as claimed,
        (recall and not claimed_returned)::int as recalled, 0 as fees, 0::numeric as balance
    from merged_loans where is_open
    union all
    select previous_user, -1, -previous_lost::int, -previous_claimed::int, -previous_recall::int, 0, 0
    from merged_loans where previous_open
    union all
    select user_id, 0, 0, 0, 0, 1, balance from merged_fees where is_open
    union all
    select previous_user, 0, 0, 0, 0, -1, -previous_balance from merged_fees where previous_open
)
insert into {schema}.patron_counter as p (
    user_id, open_loans, lost_loans, claimed_returned_loans, recalled_loans, open_fees_fines, fee_fine_balance)
select user_id, sum(loans), sum(lost), sum(claimed), sum(recalled), sum(fees), sum(balance)
from delta group by user_id order by user_id
on conflict (user_id) do update set
    version = p.version + 1,
    open_loans = p.open_loans + excluded.open_loans,
    lost_loans = p.lost_loans + excluded.lost_loans,
    claimed_returned_loans = p.claimed_returned_loans + excluded.claimed_returned_loans,
    recalled_loans = p.recalled_loans + excluded.recalled_loans,
    open_fees_fines = p.open_fees_fines + excluded.open_fees_fines,
    fee_fine_balance = p.fee_fine_balance + excluded.fee_fine_balance
