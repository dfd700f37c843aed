-- Deals out the numbers of log lines that are then copied in, in the same transaction; see append.sql, which does both at once.
--
-- Arrays of equal length, one element per batch of lines: $1 execute_id, $2 attempt, $3 base (the last_log_id its writer
-- knows), $4 how many lines. One element per batch again, or none at all if no batch needs a fence: $5 lock_key (null: it needs
-- none), $6 generation, $7 number. No id may be twice in it.
--
-- One row per batch, in order: whether its lines are to be stored now, and whether they are known to have been stored before.
with item as (
    select i.*
    from unnest($1::uuid[], $2::int[], $3::int8[], $4::int8[], $5::text[], $6::int8[], $7::int8[]) with ordinality
        as i (execute_id, attempt, base, lines, fence_key, generation, number, place)
),
-- Every row that is changed is locked first, in the order of the ids: so no two statements wait for each other.
held as materialized (
    select e.execute_id, e.tenant, e.state, e.attempt, e.last_log_id
    from execution e where e.execute_id = any($1::uuid[]) order by e.execute_id for no key update
),
-- Their fences, held so that nobody takes a higher one before this is done. (A look without the lock would let a stale holder
-- write right after its successor took its own.) Whoever takes one waits for nothing else while it has it, so there is no circle.
fenced as materialized (
    select f.tenant, f.lock_key, f.generation, f.number
    from item i
        join held h using (execute_id)
        join lock_fence f on f.tenant = h.tenant and f.lock_key = i.fence_key
    where cardinality($5::text[]) > 0
    order by f.tenant, f.lock_key for share of f
),
-- The guard.
wanted as materialized (
    select i.*, h.state = 'running' and h.attempt = i.attempt and h.last_log_id = i.base
            and (i.fence_key is null or (h.tenant, i.fence_key, i.generation, i.number) in (select * from fenced))
            as is_current,
        h.state = 'running' and h.attempt = i.attempt and h.last_log_id = i.base + i.lines as is_repeat
    from item i left join held h using (execute_id)
),
dealt as (
    update execution e set last_log_id = w.base + w.lines
    from wanted w
    where e.execute_id = w.execute_id and e.execute_id = any($1::uuid[]) and w.is_current
    returning w.place, w.execute_id, w.attempt, w.base
)
select d.place is not null as is_dealt, coalesce(w.is_repeat, false) as is_repeat
from wanted w left join dealt d using (place)
order by w.place
