-- Forgets fences that were taken over a week ago: nothing that runs is as old. The highest of all stays, to be compared with
-- what a rebuilt ensemble would deal. $1 at most so many. No rows.
delete from lock_fence f using (
    select tenant, lock_key from lock_fence
    where taken_at < now() - interval '7 days'
        and (generation, number) < (select h.generation, h.number from lock_fence h order by 1 desc, 2 desc limit 1)
    order by tenant, lock_key limit $1::int8
    for update skip locked
) gone
where (f.tenant, f.lock_key) = (gone.tenant, gone.lock_key)
