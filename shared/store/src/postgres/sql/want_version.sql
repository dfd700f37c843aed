-- Notes that an alias is to move to a version. $1 tenant, $2 model, $3 version. No rows.
update version set wanted_at = clock_timestamp() where tenant = $1::text and model = $2::text and version = $3::int4
