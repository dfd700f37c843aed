-- Takes a fence for a running attempt. $1 tenant, $2 lock_key, $3 generation, $4 number, $5 execute_id, $6 attempt.
--
-- One row: whether it is taken, and the highest fence. None if the attempt does not run and the lock has no fence yet, or if a
-- higher one was taken just now. (It locks nothing but that one row, so nobody waits for it in a circle.)
with taken as (
    insert into lock_fence as f (tenant, lock_key, generation, number, execute_id, attempt)
    select $1::text, $2::text, $3::int8, $4::int8, e.execute_id, e.attempt
    from execution e
    where e.execute_id = $5::uuid and e.tenant = $1::text and e.attempt = $6::int and e.state = 'running'
    on conflict (tenant, lock_key) do update set
        generation = excluded.generation, number = excluded.number, execute_id = excluded.execute_id,
        attempt = excluded.attempt, taken_at = excluded.taken_at
    where (f.generation, f.number) < (excluded.generation, excluded.number)
        or (f.generation, f.number, f.execute_id, f.attempt)
            = (excluded.generation, excluded.number, excluded.execute_id, excluded.attempt)
    returning f.generation, f.number
)
select true as is_taken, generation, number from taken
union all
select false, f.generation, f.number
from lock_fence f
where f.tenant = $1::text and f.lock_key = $2::text and not exists (select from taken)
