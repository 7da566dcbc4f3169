-- Reports filter with this function, by this name, in each tenant's schema. One that is there stays.
-- It needs no extension, which our role might not be allowed to make: letters are taken apart and their
-- marks dropped; the few letters that are one piece are named (docs/decisions/0016).
do $do$
begin
    if not exists (
        select from pg_catalog.pg_proc
        where proname = 'f_unaccent' and pronamespace = current_schema()::regnamespace
            and proargtypes = '25'::oidvector
    ) then
        create function f_unaccent(text) returns text
        language sql immutable strict parallel safe
        return replace(replace(replace(
            translate(
                regexp_replace(
                    normalize($1, nfd),
                    U&'[\0300-\036F\1AB0-\1AFF\1DC0-\1DFF\20D0-\20FF\FE20-\FE2F]', '', 'g'),
                'ØøŁłĐđĦħıÐð', 'OoLlDdHhiDd'),
            'ß', 'ss'), 'æ', 'ae'), 'Æ', 'AE');
        comment on function f_unaccent(text) is 'Text without accents, as reports compare it';
    end if;
end
$do$;
