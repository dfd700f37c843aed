-- Takes queued, dispatched executions whose message must be lost. $1 queues that are empty, $2 at most so many, $3 at most so
-- many bytes of input (but one execution in any case). One row each, with all that its message says; it is taken again only
-- after 60 s.
with recursive queue (queue) as (
    -- The queues that have some, one look at the index each.
    (select e.queue from execution e where e.state = 'queued' and e.dispatched_at is not null order by e.queue limit 1)
    union all
    select (select e.queue from execution e where e.state = 'queued' and e.dispatched_at is not null and e.queue > q.queue
        order by e.queue limit 1)
    from queue q where q.queue is not null
),
-- Everything in the queue that was dispatched before this is overdue: among what was claimed over 60 s ago, the latest.
mark as materialized (
    select q.queue, greatest(
        (select max(w.dispatched_at) from (
            select e.dispatched_at from execution e
            where e.queue = q.queue and e.claimed_at < now() - interval '60 s' and e.claimed_at is not null
                and e.dispatched_at is not null
            order by e.claimed_at desc limit 20) w),
        case when q.queue = any($1::text[]) then now() - interval '10 s' end) as before
    from queue q where q.queue is not null
),
due as materialized (
    select e.execute_id, e.dispatched_at, octet_length(e.input) as bytes
    from mark m join execution e on e.queue = m.queue and e.dispatched_at < m.before
    where e.state = 'queued' and e.dispatched_at is not null and e.next_dispatch_at <= now()
    order by e.dispatched_at limit $2::int8
    for no key update of e skip locked
),
taken as materialized (
    select execute_id from (
        select execute_id, sum(bytes) over (order by dispatched_at, execute_id) - bytes as before from due
    ) d where before < $3::int8
)
update execution e set next_dispatch_at = clock_timestamp() + interval '60 s'
where e.execute_id = any (array(select execute_id from taken))
returning e.execute_id, e.model, e.version, e.queue, e.input_type, e.input, e.deadline, e.traceparent
