-- A version. $1 tenant, $2 model, $3 version. No row: there is no such version.
select v.model, v.version, v.digest, v.bytes, v.manifest, v.created_at, v.wanted_at,
    array(select a.alias from alias a where (a.tenant, a.model, a.version) = (v.tenant, v.model, v.version) order by a.alias)
        as aliases
from version v where v.tenant = $1::text and v.model = $2::text and v.version = $3::int4
