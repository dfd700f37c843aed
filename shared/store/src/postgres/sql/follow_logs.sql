-- What followers have not seen. Arrays of equal length: $1 execute_id, $2 the log_id seen. $3 at most so many lines each.
-- Rows by follower and then in order; a follower with nothing new has none.
select l.execute_id, l.log_id, l.attempt, l.level, l.at, l.line, l.continues
from unnest($1::uuid[], $2::int8[]) with ordinality as f (execute_id, after, place)
    cross join lateral (
        select * from log where log.execute_id = f.execute_id and log_id > f.after order by log_id limit $3::int8
    ) l
order by f.place, l.log_id
