-- Limits, in the shape of the Java module, which reports read. An existing table stays as it is, without comments.
do $$ begin
    if to_regclass('patron_block_limits') is not null then
        return;
    end if;
    create table patron_block_limits (
        id uuid primary key,
        jsonb jsonb not null,
        creation_date timestamp without time zone,
        created_by text,
        conditionid uuid references patron_block_conditions (id)
    );
    comment on table patron_block_limits is 'Limits per patron group and condition';
    comment on column patron_block_limits.id is 'Id of the limit';
    comment on column patron_block_limits.jsonb is 'The whole record';
    comment on column patron_block_limits.creation_date is 'When it was created, in UTC: the order of blocks in an answer';
    comment on column patron_block_limits.created_by is 'Id of the user who created it';
    comment on column patron_block_limits.conditionid is 'Id of its condition, as in the record';
end $$;
create index if not exists patron_block_limits_conditionid_idx on patron_block_limits (conditionid);
