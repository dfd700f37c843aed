    limit $5::int8
),
page as (
    -- As they come, which is in that order: whoever sorted them would have to wait for all.
    select execute_id, is_wanted, place from looked where is_wanted or place = $5::int8 limit $4::int8
)
-- (The offset keeps each row a look-up of its own.)
select e.execute_id, tenant, model, version, queue, state, attempt, failures, node, accepted_at, claimed_at, finished_at,
    deadline, not_before, cancel_requested, error_class, error, exit_code, signal, last_log_id, timeline, attributes,
    p.is_wanted, p.place = $5::int8 as is_cut
from page p cross join lateral (select * from execution where execution.execute_id = p.execute_id offset 0) e
order by p.place
