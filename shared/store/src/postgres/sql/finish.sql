-- Settles attempts, with their last log lines.
--
-- $1 to $18 as finish_plain.sql has them; the terminal state ($5) only of those that ended, error_class and error ($6, $7) also of
-- a failure. One element per attempt again: $19 settlement (ended, yielded, waiting, retried, failed; waiting is a yield of one
-- that got no lock or limit yet), $20 delay in seconds (yielded, waiting, retried, failed). $21 how many failures are death,
-- $22, $23 error_class and error of a cancelled execution. One element per attempt again, or none at all if no attempt needs a
-- fence: $24 lock_key (null: it needs none), $25 generation, $26 number. No id may be twice in it.
--
-- One row per attempt, in order: whether it was settled now or before, and the execution's row after it (its result only if it
-- was settled before). Neither: the attempt is stale.
with item as (
    select i.*
    from unnest($1::uuid[], $2::int[], $3::int8[], $4::int8[], $19::text[], $5::text[], $20::float8[], $6::text[], $7::text[],
            $8::int[], $9::int[], $10::text[], $11::bytea[], $12::jsonb[], $24::text[], $25::int8[], $26::int8[]) with ordinality
        as i (execute_id, attempt, base, lines, settlement, ended, delay, error_class, error, exit_code, signal,
            result_type, result, timeline, fence_key, generation, number, place)
),
held as materialized (
    select e.execute_id, e.tenant, e.state, e.attempt, e.settled_attempt, e.last_log_id, e.failures, e.cancel_requested,
        e.error_class, e.error, e.exit_code, e.signal, e.result_type, e.result, e.reply_to, e.correlation_id
    from execution e where e.execute_id = any($1::uuid[]) order by e.execute_id for no key update
),
-- Their fences, held so that nobody takes a higher one before this is done. (A look without the lock would let a stale holder
-- write right after its successor took its own.) Whoever takes one waits for nothing else while it has it, so there is no circle.
fenced as materialized (
    select f.tenant, f.lock_key, f.generation, f.number
    from item i
        join held h using (execute_id)
        join lock_fence f on f.tenant = h.tenant and f.lock_key = i.fence_key
    where cardinality($24::text[]) > 0
    order by f.tenant, f.lock_key for share of f
),
-- The guard, and what follows.
wanted as materialized (
    select i.*, h.state = 'running' and h.attempt = i.attempt and h.last_log_id = i.base
            and (i.fence_key is null or (h.tenant, i.fence_key, i.generation, i.number) in (select * from fenced))
            as is_current,
        case
            when i.settlement = 'ended' then i.ended
            when h.cancel_requested then 'cancelled'
            when i.settlement = 'failed' and h.failures + 1 >= $21::int then 'dead'
            else 'delayed'
        end as state
    from item i join held h using (execute_id)
),
settled as (
    update execution e set
        state = w.state,
        settled_attempt = w.attempt,
        last_log_id = w.base + w.lines,
        retries = e.retries + (w.settlement = 'retried')::int,
        failures = e.failures + (w.settlement = 'failed')::int,
        leased_by = null,
        leased_until = null,
        -- It has waited since the first of the attempts that only waited.
        waiting_since = case when w.state = 'delayed' and w.settlement = 'waiting'
            then coalesce(e.waiting_since, e.claimed_at) end,
        timeline = e.timeline || w.timeline,
        not_before = case when w.state = 'delayed' then clock_timestamp() + make_interval(secs => w.delay) end,
        dispatched_at = case when w.state = 'delayed' then null else e.dispatched_at end,
        finished_at = case when w.state <> 'delayed' then clock_timestamp() end,
        error_class = case when w.state = 'delayed' then null
            when w.state = 'cancelled' and w.settlement <> 'ended' then $22::text else w.error_class end,
        error = case when w.state = 'delayed' then null
            when w.state = 'cancelled' and w.settlement <> 'ended' then $23::text else w.error end,
        exit_code = w.exit_code,
        signal = w.signal,
        result_type = w.result_type,
        result = w.result
    from wanted w
    where e.execute_id = w.execute_id and e.execute_id = any($1::uuid[]) and w.is_current
    returning w.place, w.attempt as settled_now, w.base, e.execute_id, e.state, e.error_class, e.error, e.exit_code, e.signal,
        e.reply_to, e.correlation_id
),
stored as (
    insert into log (execute_id, log_id, at, attempt, continues, level, line)
    select s.execute_id, s.base + l.log_id, l.at, s.settled_now, l.continues, l.level, l.line
    from unnest($13::int8[], $14::int8[], $15::text[], $16::timestamptz[], $17::text[], $18::bool[])
            as l (place, log_id, level, at, line, continues)
        join settled s using (place)
    order by s.execute_id, l.log_id
)
select i.execute_id, i.attempt, s.place is not null as is_settled,
    h.attempt = i.attempt and h.state <> 'running' and h.settled_attempt = i.attempt as was_settled,
    coalesce(s.state, h.state) as state, coalesce(s.error_class, h.error_class) as error_class,
    coalesce(s.error, h.error) as error, coalesce(s.exit_code, h.exit_code) as exit_code,
    coalesce(s.signal, h.signal) as signal, h.result_type, h.result,
    coalesce(s.reply_to, h.reply_to) as reply_to, coalesce(s.correlation_id, h.correlation_id) as correlation_id
from item i left join settled s using (place) left join held h on h.execute_id = i.execute_id
order by i.place
