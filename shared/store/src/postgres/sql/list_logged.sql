-- Executions of a model and how many log lines each has, the youngest first. $1 tenant, $2 model, $3 ids from this one on, $4 ids
-- below this one, $5 ids up to this one (both null: any), $6 at most so many.
select execute_id, last_log_id
from execution
where tenant = $1::text and model = $2::text and execute_id >= $3::uuid
    and execute_id < coalesce($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    and execute_id <= coalesce($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
order by execute_id desc limit $6::int8
