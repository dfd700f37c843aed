-- The rest of list_executions.
        and e.tenant = $1::text and e.execute_id >= $3::uuid
        and e.execute_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    order by e.execute_id desc limit $5::int8
),
page as (
    select execute_id, is_wanted, place from looked where is_wanted or place = $5::int8
    order by execute_id desc limit $4::int8
)
select execute_id, tenant, model, version, queue, state, attempt, failures, node, accepted_at, claimed_at, finished_at,
    deadline, not_before, cancel_requested, error_class, error, exit_code, signal, last_log_id, timeline,
    p.is_wanted, p.place = $5::int8 as is_cut
from page p join execution e using (execute_id)
order by execute_id desc
