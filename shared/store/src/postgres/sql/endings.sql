-- Which of these have ended, and how. $1 execute_id (array). One row for each that has.
select execute_id, attempt, state, error_class, error, exit_code, signal, result_type, result, reply_to, correlation_id
from execution where execute_id = any($1::uuid[]) and finished_at is not null
