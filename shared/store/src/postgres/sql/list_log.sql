-- The first lines of a part of an execution's log, in order. $1 execute_id, $2 after this log_id, $3 before this log_id, $4 at most
-- so many.
select log_id, attempt, level, at, line, continues, true as is_wanted, false as is_cut
from log where execute_id = $1::uuid and log_id > $2::int8 and log_id < $3::int8 order by log_id limit $4::int8
