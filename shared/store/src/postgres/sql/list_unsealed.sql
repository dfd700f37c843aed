-- The days of the log that are over and not in their final shape, the oldest first. $1 how long after its end a day is still
-- written, in seconds.
select p.day from log_partition p left join log_day d using (day)
where d.sealed_at is null
    and (p.day + 1)::timestamp at time zone 'UTC' < now() - make_interval(secs => $1)
order by p.day
