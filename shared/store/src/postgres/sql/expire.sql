-- Ends queued and delayed executions whose deadline has passed. $1 at most so many, $2, $3 error_class and error of an expired
-- execution. One row each: the execution's row after.
with overdue as materialized (
    select e.execute_id from execution e
    where e.state in ('queued', 'delayed') and e.deadline is not null and e.deadline <= now()
    order by e.deadline limit $1::int8
    for no key update skip locked
)
update execution e set
    state = 'expired', not_before = null, next_dispatch_at = null, finished_at = clock_timestamp(),
    error_class = $2::text, error = $3::text
where e.execute_id = any (array(select execute_id from overdue))
returning e.execute_id, e.attempt, e.state, e.error_class, e.error, e.exit_code, e.signal, e.result_type, e.result,
    e.reply_to, e.correlation_id
