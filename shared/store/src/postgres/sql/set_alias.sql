-- Moves, makes or takes away an alias of a locked model. $1 tenant, $2 model, $3 alias, $4 version (null: take it away),
-- $5 what it points at now (null: whatever, 0: there is none). One row: what it pointed at, whether that was expected, and
-- whether there is such a version; if one of them is not so, nothing was changed.
with pointed as (select version from alias where tenant = $1::text and model = $2::text and alias = $3::text),
checked as (
    select
        $5::int4 is null or $5::int4 = coalesce((select version from pointed), 0) as is_expected,
        $4::int4 is null
            or exists (select from version where tenant = $1::text and model = $2::text and version = $4::int4) as is_known
),
moved as (
    insert into alias (tenant, model, alias, version)
    select $1::text, $2::text, $3::text, $4::int4 from checked where is_expected and is_known and $4::int4 is not null
    on conflict (tenant, model, alias) do update set version = excluded.version
),
gone as (
    delete from alias using checked
    where tenant = $1::text and model = $2::text and alias = $3::text and $4::int4 is null and is_expected
)
select (select version from pointed) as version, is_expected, is_known from checked
