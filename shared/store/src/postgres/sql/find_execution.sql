-- The row of an execution without input and result. $1 tenant, $2 execute_id. No row: there is no such execution.
select execute_id, tenant, model, version, queue, state, attempt, failures, node, accepted_at, claimed_at, finished_at,
    deadline, not_before, cancel_requested, error_class, error, exit_code, signal, last_log_id, timeline, attributes
from execution where tenant = $1::text and execute_id = $2::uuid
