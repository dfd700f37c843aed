-- How an execution ended. $1 tenant, $2 execute_id. No row: there is no such execution, or it has not ended.
select attempt, state, error_class, error, exit_code, signal, result_type, result
from execution where tenant = $1::text and execute_id = $2::uuid and finished_at is not null
