-- Appends log lines; the execution's row deals out their numbers, and none to a stale attempt.
--
-- Arrays of equal length, one element per batch of lines: $1 execute_id, $2 attempt, $3 base (the last_log_id its writer
-- knows), $4 how many lines. Arrays of equal length, one element per line: $5 the place of its batch (from 1), $6 its place in
-- that batch (from 1), $7 level, $8 at, $9 line, $10 continues. One element per batch again, or none at all if no batch needs a
-- fence: $11 lock_key (null: it needs none), $12 generation, $13 number. No id may be twice in it.
--
-- One row per batch, in order: whether it was stored now, or is known to have been stored before.
with item as (
    select i.*
    from unnest($1::uuid[], $2::int[], $3::int8[], $4::int8[], $11::text[], $12::int8[], $13::int8[]) with ordinality
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
    where cardinality($11::text[]) > 0
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
),
stored as (
    insert into log (execute_id, log_id, at, attempt, continues, level, line)
    select d.execute_id, d.base + l.log_id, l.at, d.attempt, l.continues, l.level, l.line
    from unnest($5::int8[], $6::int8[], $7::text[], $8::timestamptz[], $9::text[], $10::bool[])
            as l (place, log_id, level, at, line, continues)
        join dealt d using (place)
)
select d.place is not null or coalesce(w.is_repeat, false)
from wanted w left join dealt d using (place)
order by w.place
