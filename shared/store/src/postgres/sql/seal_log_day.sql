-- Seals a day of the log. $1 the day, $2 the fence of the upkeep, $3 how often the swap is tried. One row: what came of it
-- (sealed, open, stale, busy), how many lines and bytes.
select outcome, line_count, byte_count from seal_log_day($1::date, $2::int8, $3::int)
