-- Executions in a state without an index in the order of ids, in no order. $1 queued, delayed or running, $2 at most about so many.
(select execute_id from execution where state = 'queued' and dispatched_at is null and $1::text = 'queued' limit $2::int8)
union all
(select execute_id from execution where state = 'queued' and dispatched_at is not null and $1::text = 'queued' limit $2::int8)
union all
(select execute_id from execution where state = 'delayed' and $1::text = 'delayed' limit $2::int8)
union all
(select execute_id from execution where state = 'running' and $1::text = 'running' limit $2::int8)
