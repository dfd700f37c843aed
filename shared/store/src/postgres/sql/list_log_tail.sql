-- The end of an execution's log, the last line first. $1 execute_id, $2 at most so many.
select log_id, attempt, level, at, line, continues
from log where execute_id = $1::uuid order by log_id desc limit $2::int8
