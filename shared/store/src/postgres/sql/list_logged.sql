-- Executions of a model and how many log lines each has, the youngest first. $1 tenant, $2 model, $3 ids from this one on, $4 ids
-- below this one, $5 ids up to this one (both null: any), $6 at most so many.
--
-- (Written so that only the index by model has this order: see postgres/list.rs.)
select execute_id, last_log_id
from execution
where tenant = $1::text and (model, execute_id) >= ($2::text, $3::uuid)
    and (model, execute_id) < ($2::text, coalesce($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
    and (model, execute_id) <= ($2::text, coalesce($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
order by model desc, execute_id desc limit $6::int8
