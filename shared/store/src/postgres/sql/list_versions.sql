-- The versions of a model or of all, by model and then the youngest first. $1 tenant, $2 model (null: all).
select v.model, v.version, v.digest, v.bytes, v.manifest, v.created_at, v.wanted_at,
    array(select a.alias from alias a where (a.tenant, a.model, a.version) = (v.tenant, v.model, v.version) order by a.alias)
        as aliases
from version v where v.tenant = $1::text and ($2::text is null or v.model = $2::text)
order by v.model collate "C", v.version desc
