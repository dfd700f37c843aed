-- Takes an execution back. $1 tenant, $2 execute_id, $3, $4 error_class and error of a cancelled execution.
--
-- One row: the state before, and the execution's row after. No row: there is no such execution.
with held as materialized (
    select e.* from execution e where e.tenant = $1::text and e.execute_id = $2::uuid for no key update
),
changed as (
    update execution e set
        cancel_requested = true,
        state = case when h.state = 'running' then e.state else 'cancelled' end,
        not_before = null,
        next_dispatch_at = null,
        finished_at = case when h.state <> 'running' then clock_timestamp() end,
        error_class = case when h.state <> 'running' then $3::text end,
        error = case when h.state <> 'running' then $4::text end
    from held h
    where e.execute_id = h.execute_id and e.execute_id = $2::uuid and e.state in ('queued', 'delayed', 'running')
    returning e.*
),
now as (
    select * from changed union all select * from held where not exists (select from changed)
)
select h.state as before, n.execute_id, n.attempt, n.state, n.error_class, n.error, n.exit_code, n.signal, n.result_type,
    n.result, n.reply_to, n.correlation_id
from held h, now n
