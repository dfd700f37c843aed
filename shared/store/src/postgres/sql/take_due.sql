-- Makes delayed executions whose time has come queued. $1 at most so many, $2 at most so many bytes of input (but one
-- execution in any case). One row each, with all that its message says; if it is not published, it is taken as undispatched.
with due as materialized (
    select e.execute_id, e.not_before, octet_length(e.input) as bytes from execution e
    where e.state = 'delayed' and e.not_before <= now()
    order by e.not_before limit $1::int8
    for no key update skip locked
),
taken as materialized (
    select execute_id from (
        select execute_id, sum(bytes) over (order by not_before, execute_id) - bytes as before from due
    ) d where before < $2::int8
)
update execution e set
    state = 'queued', not_before = null, dispatched_at = null, dispatches = 0,
    next_dispatch_at = clock_timestamp() + interval '5 s'
where e.execute_id = any (array(select execute_id from taken))
returning e.execute_id, e.model, e.version, e.queue, e.input_type, e.input, e.deadline, e.traceparent
