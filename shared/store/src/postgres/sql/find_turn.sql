-- Where a queued execution is in its queue. $1 execution, $2 counted up to this. No row: it is not queued.
select e.dispatched_at, case when e.dispatched_at is null then 0 else (select count(*) from (
    select from execution o where o.state = 'queued' and o.dispatched_at is not null
        and o.queue = e.queue and o.dispatched_at < e.dispatched_at limit $2::int8) n) end as ahead
from execution e where e.execute_id = $1::uuid and e.state = 'queued'
