-- Takes executions back from lost leases. $1 the nodes that are present (null: that is not known), $2 lease and $3 the
-- distance of renewals in seconds, $4 at most so many, $5 how many failures are death, $6, $7 error_class and error of such a
-- death, $8, $9 of a cancelled execution.
--
-- A lease is lost when it ran out, but after a start of the server only once everybody had time to renew it; or when its node
-- is gone and missed two renewals. One row each: who held it, and the execution's row after.
with lost as materialized (
    select e.execute_id, e.leased_by, e.waiting_since is null as ran,
        case when e.cancel_requested then 'cancelled'
            when e.waiting_since is null and e.failures + 1 >= $5::int then 'dead' else 'delayed' end as state
    from execution e
    where e.state = 'running' and (
        now() > greatest(e.leased_until, pg_postmaster_start_time() + make_interval(secs => $2))
        or ($1::text[] is not null and e.leased_by <> all ($1::text[])
            and now() > greatest(e.renewed_at, pg_postmaster_start_time()) + make_interval(secs => 2 * $3::float8)))
    order by e.execute_id limit $4::int8
    for no key update skip locked
)
update execution e set
    state = l.state,
    -- Who only waited for a lock or a limit spends nothing, and its time counts on.
    failures = e.failures + l.ran::int,
    leased_by = null,
    leased_until = null,
    not_before = case when l.state = 'delayed' then clock_timestamp()
        + case e.failures + l.ran::int - 1 when -1 then interval '0 s' when 0 then interval '0 s' when 1 then '1 s' else '10 s' end end,
    dispatched_at = case when l.state = 'delayed' then null else e.dispatched_at end,
    finished_at = case when l.state <> 'delayed' then clock_timestamp() end,
    error_class = case l.state when 'dead' then $6::text when 'cancelled' then $8::text end,
    error = case l.state when 'dead' then $7::text when 'cancelled' then $9::text end,
    timeline = e.timeline || jsonb_build_object('attempt', e.attempt, 'event', 'rescued',
        'at', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'node', l.leased_by)
from lost l
where e.execute_id = l.execute_id and e.execute_id = any (array(select execute_id from lost))
returning l.leased_by as lost_by, e.execute_id, e.attempt, e.state, e.error_class, e.error, e.exit_code, e.signal,
    e.result_type, e.result, e.reply_to, e.correlation_id
