-- Takes queued executions that nobody is known to have published, and puts off their next dispatch. $1 at most so many,
-- $2 at most so many bytes of input (but one execution in any case). One row each, with all that its message says.
with due as materialized (
    select e.execute_id, e.next_dispatch_at, octet_length(e.input) as bytes from execution e
    where e.state = 'queued' and e.dispatched_at is null and e.next_dispatch_at <= now()
    order by e.next_dispatch_at limit $1::int8
    for no key update skip locked
),
taken as materialized (
    select execute_id from (
        select execute_id, sum(bytes) over (order by next_dispatch_at, execute_id) - bytes as before from due
    ) d where before < $2::int8
)
update execution e set
    dispatches = e.dispatches + 1,
    next_dispatch_at = clock_timestamp()
        + case e.dispatches when 0 then interval '5 s' when 1 then '30 s' when 2 then '2 min' else '5 min' end
where e.execute_id = any (array(select execute_id from taken))
returning e.execute_id, e.model, e.version, e.queue, e.input_type, e.input, e.deadline, e.traceparent
