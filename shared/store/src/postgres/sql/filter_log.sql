-- The first lines that are wanted of a part of an execution's log, in order. $1 to $4 as of list_log; $5 look at no more than so
-- many; $6 letters of levels, $7 a text in the line, $8, $9 no earlier than, and before, this time (null: any).
--
-- The last line that may be looked at is among the rows, wanted or not: is_cut.
select log_id, attempt, level, at, line, continues, is_wanted, place = $5::int8 as is_cut
from (
    select log_id, attempt, level, at, line, continues, row_number() over (order by log_id) as place,
        strpos($6::text, level) > 0 and ($7::text is null or strpos(line, $7::text) > 0)
            and ($8::timestamptz is null or at >= $8::timestamptz) and ($9::timestamptz is null or at < $9::timestamptz)
            as is_wanted
    from log where execute_id = $1::uuid and log_id > $2::int8 and log_id < $3::int8 order by log_id limit $5::int8
) l
where is_wanted or place = $5::int8 order by log_id limit $4::int8
