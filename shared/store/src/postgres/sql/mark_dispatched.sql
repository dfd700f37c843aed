-- Notes that executions were published. $1 execute_id (array). Those no longer queued are left alone. No rows.
with held as materialized (
    select e.execute_id, e.state
    from execution e where e.execute_id = any($1::uuid[]) order by e.execute_id for no key update
),
wanted as materialized (
    select h.execute_id, h.state = 'queued' as is_queued from held h
)
update execution e set
    -- Who was dispatched before keeps the time until which it is not taken for overtaken again.
    next_dispatch_at = case when e.dispatched_at is null then clock_timestamp() else e.next_dispatch_at end,
    dispatched_at = clock_timestamp(),
    dispatches = 0
from wanted w
where e.execute_id = w.execute_id and e.execute_id = any($1::uuid[]) and w.is_queued
