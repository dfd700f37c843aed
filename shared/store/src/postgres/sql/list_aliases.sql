-- The aliases of a model, by name. $1 tenant, $2 model.
select alias, version from alias where tenant = $1::text and model = $2::text order by alias collate "C"
