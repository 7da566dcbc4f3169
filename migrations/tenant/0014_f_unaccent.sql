-- Reports filter with this function, by this name, in the schema of each tenant. An existing function stays. The function needs no
-- extension, which the role might not be allowed to create: it decomposes letters and drops their marks; the few letters
-- that do not decompose are listed (docs/decisions/0016).
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
