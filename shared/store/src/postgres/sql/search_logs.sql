-- The lines that are wanted among some of each of these executions, in the order of the executions as given. Arrays of equal
-- length: $1 execute_id, $2 after this log_id, $3 up to this one. $4 at most so many in all; $5 letters of levels, $6 a text in
-- the line, $7, $8 no earlier than, and before, this time (null: any).
select l.execute_id, l.log_id, l.attempt, l.level, l.at, l.line, l.continues
from unnest($1::uuid[], $2::int8[], $3::int8[]) with ordinality as s (execute_id, after, upto, place)
    cross join lateral (
        select * from log
        where log.execute_id = s.execute_id and log_id > s.after and log_id <= s.upto
            and strpos($5::text, level) > 0 and ($6::text is null or strpos(line, $6::text) > 0)
            and ($7::timestamptz is null or at >= $7::timestamptz) and ($8::timestamptz is null or at < $8::timestamptz)
        order by log_id limit $4::int8
    ) l
order by s.place, l.log_id limit $4::int8
