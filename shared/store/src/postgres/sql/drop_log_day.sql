-- Drops a day of the log. $1 the day, $2 the fence of the upkeep, $3 how often it is tried. One row: what came of it
-- (dropped, open, stale), how many lines and bytes.
select outcome, line_count, byte_count from drop_log_day($1::date, $2::int8, $3::int)
