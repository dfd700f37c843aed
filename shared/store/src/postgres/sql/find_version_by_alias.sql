-- The version that an alias points at. $1 tenant, $2 model, $3 alias. No row: there is no such alias.
select v.model, v.version, v.digest, v.bytes, v.manifest, v.created_at, v.wanted_at,
    array(select a.alias from alias a where (a.tenant, a.model, a.version) = (v.tenant, v.model, v.version) order by a.alias)
        as aliases
from alias named join version v using (tenant, model, version)
where named.tenant = $1::text and named.model = $2::text and named.alias = $3::text
