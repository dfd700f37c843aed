-- Extends the leases of a node. Arrays of equal length: $1 execute_id, $2 attempt. $3 node, $4 lease in seconds.
--
-- One row per lease that is still the node's, whether it had run out or not; one without a row is lost.
with item as (
    select i.* from unnest($1::uuid[], $2::int[]) as i (execute_id, attempt)
),
held as materialized (
    select e.execute_id, e.state, e.attempt, e.leased_by
    from execution e where e.execute_id = any($1::uuid[]) order by e.execute_id for no key update
),
wanted as materialized (
    select i.execute_id, h.state = 'running' and h.attempt = i.attempt and h.leased_by = $3::text as is_current
    from item i join held h using (execute_id)
)
update execution e set leased_until = clock_timestamp() + make_interval(secs => $4), renewed_at = clock_timestamp()
from wanted w
where e.execute_id = w.execute_id and e.execute_id = any($1::uuid[]) and w.is_current
returning e.execute_id, e.attempt, e.cancel_requested
