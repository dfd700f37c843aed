-- Notes that executions were published. $1 execute_id (array). Those no longer queued are left alone. No rows.
with held as materialized (
    select e.execute_id from execution e
    where e.execute_id = any($1::uuid[]) and e.state = 'queued' order by e.execute_id for no key update
)
update execution e set
    -- Who was dispatched before keeps the time until which it is not taken for overtaken again.
    next_dispatch_at = case when e.dispatched_at is null then clock_timestamp() else e.next_dispatch_at end,
    dispatched_at = clock_timestamp(),
    dispatches = 0
from held h
where e.execute_id = h.execute_id and e.execute_id = any($1::uuid[]) and e.state = 'queued'
