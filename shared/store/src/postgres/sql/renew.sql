-- Extends the leases of a node. Arrays of equal length: $1 execute_id, $2 attempt. $3 node, $4 lease in seconds.
--
-- One row per lease that is still the node's, whether it had run out or not; one without a row is lost.
with item as (
    select i.* from unnest($1::uuid[], $2::int[]) as i (execute_id, attempt)
),
held as materialized (
    select e.execute_id from execution e where e.execute_id = any($1::uuid[]) order by e.execute_id for no key update
)
update execution e set leased_until = clock_timestamp() + make_interval(secs => $4), renewed_at = clock_timestamp()
from item i join held using (execute_id)
where e.execute_id = i.execute_id and e.execute_id = any($1::uuid[])
    and e.state = 'running' and e.attempt = i.attempt and e.leased_by = $3::text
returning e.execute_id, e.attempt, e.cancel_requested
