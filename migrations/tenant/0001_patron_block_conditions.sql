-- Conditions, in the shape of the Java module, which reports read: an id and the whole record as JSON. An existing table
-- stays as it is, without comments: it goes back unchanged if the tenant returns to the Java module.
do $$ begin
    if to_regclass('patron_block_conditions') is not null then
        return;
    end if;
    create table patron_block_conditions (
        id uuid primary key,
        jsonb jsonb not null,
        creation_date timestamp without time zone,
        created_by text
    );
    comment on table patron_block_conditions is 'The six conditions';
    comment on column patron_block_conditions.id is 'Id of the condition';
    comment on column patron_block_conditions.jsonb is 'The whole record';
    comment on column patron_block_conditions.creation_date is 'When it was created, in UTC';
    comment on column patron_block_conditions.created_by is 'Who created it; the service does not set it';
end $$;
