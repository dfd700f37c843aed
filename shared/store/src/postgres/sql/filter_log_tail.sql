-- The last lines that are wanted of a part of an execution's log, the last line first. Parameters and rows as of filter_log.
select log_id, attempt, level, at, line, continues, is_wanted, place = $5::int8 as is_cut
from (
    select log_id, attempt, level, at, line, continues, row_number() over (order by log_id desc) as place,
        strpos($6::text, level) > 0 and ($7::text is null or strpos(line, $7::text) > 0)
            and ($8::timestamptz is null or at >= $8::timestamptz) and ($9::timestamptz is null or at < $9::timestamptz)
            as is_wanted
    from log where execute_id = $1::uuid and log_id > $2::int8 and log_id < $3::int8 order by log_id desc limit $5::int8
) l
where is_wanted or place = $5::int8 order by log_id desc limit $4::int8
