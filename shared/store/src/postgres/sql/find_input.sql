-- The input of an execution. $1 tenant, $2 execute_id. No row: there is no such execution.
select input_type, input from execution where tenant = $1::text and execute_id = $2::uuid
