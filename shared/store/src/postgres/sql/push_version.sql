-- Adds a version to a locked model, unless it has that bundle, and points latest at it. $1 tenant, $2 model, $3 digest, $4 bytes,
-- $5 manifest. One row: the version, and whether it is new.
with made as (
    insert into version (tenant, model, version, digest, bytes, manifest)
    select $1::text, $2::text,
        (select coalesce(max(version), 0) + 1 from version where tenant = $1::text and model = $2::text),
        $3::bytea, $4::int8, $5::jsonb
    where not exists (select from version where tenant = $1::text and model = $2::text and digest = $3::bytea)
    returning *
),
now as (
    select *, true as created from made
    union all
    select *, false from version where tenant = $1::text and model = $2::text and digest = $3::bytea
),
pointed as (
    insert into alias (tenant, model, alias, version) select tenant, model, 'latest', version from now
    on conflict (tenant, model, alias) do update set version = excluded.version
)
select n.model, n.version, n.digest, n.bytes, n.manifest, n.created_at, n.wanted_at, n.created,
    array(
        select a.alias from alias a
        where a.tenant = n.tenant and a.model = n.model and a.version = n.version and a.alias <> 'latest'
        union select 'latest' order by 1) as aliases
from now n
