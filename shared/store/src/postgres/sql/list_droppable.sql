-- The days of the log that may be dropped, the oldest first. $1 how long after its end a day is still written, $2 drop those
-- that ended longer ago than this (null: none for that), in seconds; $3 drop the oldest until the whole log has at most so many
-- bytes (null: none for that).
with held as (
    select day, (day + 1)::timestamp at time zone 'UTC' as ended, pg_total_relation_size(partition) as bytes
    from log_partition
),
-- What would be left if this one and all older ones were kept.
counted as (
    select day, ended, sum(bytes) over (order by day desc) as bytes_from_here from held
)
select day from counted
where ended < now() - make_interval(secs => $1)
    and coalesce(ended < now() - make_interval(secs => $2::float8) or bytes_from_here > $3::int8, false)
order by day
