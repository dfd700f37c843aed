-- What waits in queues and how long their executions take. $1 queues, $2 counted up to this. One row for each queue: how
-- many wait, how many seconds ago the oldest was accepted, and how many seconds those took on average that were started
-- last and have ended. Reads the partial indexes of what waits, and for each queue the last 500 that were started.
with others as (
    (select queue, accepted_at from execution
    where state = 'queued' and dispatched_at is null order by next_dispatch_at limit $2::int8)
    union all
    (select queue, accepted_at from execution
    where state = 'delayed' and not_before <= now() order by not_before limit $2::int8)
), counted as (
    select queue, count(*) as waiting, min(accepted_at) as oldest from others group by queue
)
select q.queue, coalesce(c.waiting, 0) + d.waiting as waiting,
    extract(epoch from now() - least(c.oldest, o.oldest))::float8 as oldest, m.mean
from unnest($1::text[]) q (queue)
left join counted c using (queue)
cross join lateral (select count(*) as waiting from (
    select from execution e
    where e.state = 'queued' and e.dispatched_at is not null and e.queue = q.queue limit $2::int8) n) d
left join lateral (
    select e.accepted_at as oldest from execution e
    where e.state = 'queued' and e.dispatched_at is not null and e.queue = q.queue order by e.dispatched_at limit 1) o on true
cross join lateral (select avg(extract(epoch from l.finished_at - l.claimed_at))::float8 as mean from (
    select e.finished_at, e.claimed_at from execution e
    where e.queue = q.queue and e.claimed_at is not null and e.dispatched_at is not null
    order by e.claimed_at desc limit 500) l
where l.finished_at is not null) m
