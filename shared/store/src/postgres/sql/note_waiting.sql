-- Notes whether a running attempt only waits for its lock or a limit. $1 execute_id, $2 attempt, $3 is_waiting.
-- No row: the attempt no longer runs.
update execution set waiting_since = case when $3::bool then coalesce(waiting_since, claimed_at) end
where execute_id = $1::uuid and attempt = $2::int and state = 'running'
returning true
