-- A page of a model's executions without inputs and results, the youngest first. $1 tenant, $2 only in this state (null: any),
-- $3 only below this id (null: any), $4 at most so many, $5 model.
select execute_id, tenant, model, version, queue, state, attempt, failures, node, accepted_at, claimed_at, finished_at,
    deadline, not_before, cancel_requested, error_class, error, exit_code, signal, last_log_id, timeline
from execution
where tenant = $1::text and model = $5::text and ($2::text is null or state = $2::text)
    and execute_id < coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
order by execute_id desc limit $4::int8
