-- The last lines of a part of an execution's log, the last line first. Parameters as of list_log.
select log_id, attempt, level, at, line, continues, true as is_wanted, false as is_cut
from log where execute_id = $1::uuid and log_id > $2::int8 and log_id < $3::int8 order by log_id desc limit $4::int8
