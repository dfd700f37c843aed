-- The locks or limits that somebody has or waits for, by name. $1 tenant, $2 kind.
select name from contender
where tenant = $1::text and kind = $2::text and leased_until > clock_timestamp()
group by name order by name collate "C"
