-- Claims the executions of a chunk of deliveries; makes the rows of direct producers' messages.
--
-- Arrays of equal length, one element per delivery: $1 execute_id, $2 claim_id, $3 node, $4 lease in seconds, $5 tenant,
-- $6 model, $7 version (null: there is none), $8 queue, $9 input_type, $10 input (empty if recorded), $11 input_digest,
-- $12 reply_to (null: nobody waits), $13 correlation_id, $14 deadline, $15 traceparent, $16 recorded (the row should exist),
-- $17 is_repeat (redelivered, or a dispatch of our own: an address that is known is no second one).
-- $18, $19: how far back and ahead a new id may be dated, in seconds; $20: how many reply addresses a row remembers;
-- $21, $22, $23, $24: error_class and error of an expired and of a cancelled execution. One element per delivery again:
-- $25 attributes (null: none), $26 when its id is dated. No id may be twice in it.
--
-- One row per delivery, in order: a verdict, and the execution's row after it. The verdict is null if another statement made
-- the row just now: ask again.
with item as (
    select i.*
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::float8[], $5::text[], $6::text[], $7::int[], $8::text[], $9::text[],
            $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::timestamptz[], $15::text[], $16::bool[], $17::bool[],
            $25::jsonb[], $26::timestamptz[])
        with ordinality as i (execute_id, claim_id, node, lease, tenant, model, version, queue, input_type, input,
            input_digest, reply_to, correlation_id, deadline, traceparent, recorded, is_repeat, attributes, dated_at, place)
),
-- Every row that is changed is locked first, in the order of the ids: so no two statements wait for each other.
held as materialized (
    select e.execute_id, e.tenant, e.state, e.attempt, e.last_log_id, e.version, e.retries, e.failures, e.claimed_at, e.deadline,
        e.waiting_since, e.cancel_requested, e.claim_id, e.input_digest, e.reply_to, e.correlation_id, e.reply_claim,
        e.error_class, e.error, e.exit_code, e.signal, e.result_type, e.result
    from execution e where e.execute_id = any($1::uuid[]) order by e.execute_id for no key update
),
judged as materialized (
    select i.*, clock_timestamp() as at,
        case
            when h.tenant <> i.tenant or h.input_digest <> i.input_digest then 'id_reused'
            when h.state = 'running' and h.claim_id = i.claim_id then 'claimed_before'
            when h.state = 'queued' and h.cancel_requested then 'cancelled'
            when h.state = 'queued' and h.deadline <= clock_timestamp() then 'expired'
            when h.state = 'queued' then 'claimed'
            when h.state in ('running', 'delayed') then 'not_now'
            else 'ended'
        end as verdict,
        i.reply_to is not null and cardinality(h.reply_to) < $20::int
            and (i.claim_id <> all (h.reply_claim)) is not false
            and not (i.is_repeat and exists (
                select from unnest(h.reply_to, h.correlation_id) a (reply_to, correlation_id)
                where a.reply_to = i.reply_to and a.correlation_id = i.correlation_id)) as is_new_address
    from item i join held h using (execute_id)
),
verdict as materialized (
    select j.*, case j.verdict when 'not_now' then j.is_new_address else j.verdict in ('claimed', 'expired', 'cancelled') end
        as changes
    from judged j
),
changed as (
    update execution e set
        state = case when v.verdict = 'claimed' then 'running' when v.verdict = 'not_now' then e.state else v.verdict end,
        attempt = e.attempt + (v.verdict = 'claimed')::int,
        claim_id = case when v.verdict = 'claimed' then v.claim_id else e.claim_id end,
        node = case when v.verdict = 'claimed' then v.node else e.node end,
        leased_by = case when v.verdict = 'claimed' then v.node else e.leased_by end,
        leased_until = case when v.verdict = 'claimed' then v.at + make_interval(secs => v.lease)
            else e.leased_until end,
        renewed_at = case when v.verdict = 'claimed' then v.at else e.renewed_at end,
        claimed_at = case when v.verdict = 'claimed' then v.at else e.claimed_at end,
        -- No later than it was dispatched: it marks how far its queue has been worked off.
        dispatched_at = case when v.verdict = 'claimed' then coalesce(e.dispatched_at, e.accepted_at) else e.dispatched_at end,
        next_dispatch_at = case when v.verdict = 'not_now' then e.next_dispatch_at end,
        timeline = case when v.verdict = 'claimed' then e.timeline || jsonb_build_object('attempt', e.attempt + 1,
            'event', 'claimed', 'at', to_char(v.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'node', v.node) else e.timeline end,
        reply_to = case when v.is_new_address then e.reply_to || v.reply_to else e.reply_to end,
        correlation_id = case when v.is_new_address then e.correlation_id || v.correlation_id else e.correlation_id end,
        reply_claim = case when v.is_new_address then e.reply_claim || v.claim_id else e.reply_claim end,
        finished_at = case when v.verdict in ('expired', 'cancelled') then v.at end,
        error_class = case v.verdict when 'expired' then $21::text when 'cancelled' then $23::text end,
        error = case v.verdict when 'expired' then $22::text when 'cancelled' then $24::text end
    from verdict v
    where e.execute_id = v.execute_id and e.execute_id = any($1::uuid[]) and v.changes
    returning e.execute_id, e.state, e.attempt, e.last_log_id, e.version, e.retries, e.failures, e.claimed_at, e.deadline,
        e.waiting_since, e.error_class, e.error, e.exit_code, e.signal
),
made as (
    insert into execution (execute_id, tenant, model, version, queue, state, attempt, claim_id, node, leased_by, leased_until,
        renewed_at, claimed_at, dispatched_at, input_type, input, input_digest, reply_to, correlation_id, reply_claim, deadline,
        traceparent, attributes, timeline, finished_at, error_class, error)
    select i.execute_id, i.tenant, i.model, i.version, i.queue, case when n.runs then 'running' else 'expired' end,
        n.runs::int, case when n.runs then i.claim_id end, case when n.runs then i.node end, case when n.runs then i.node end,
        case when n.runs then n.at + make_interval(secs => i.lease) end, case when n.runs then n.at end,
        case when n.runs then n.at end,
        -- No later than it was published, as far as clocks agree: it marks how far its queue has been worked off.
        case when n.runs then least(i.dated_at, n.at) end, i.input_type, i.input, i.input_digest,
        case when i.reply_to is null then '{}' else array[i.reply_to] end,
        case when i.reply_to is null then '{}' else array[i.correlation_id] end,
        case when i.reply_to is null then '{}' else array[i.claim_id] end,
        i.deadline, i.traceparent, i.attributes,
        case when n.runs then jsonb_build_array(jsonb_build_object('attempt', 1, 'event', 'claimed',
            'at', to_char(n.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'node', i.node)) else '[]' end,
        case when not n.runs then n.at end, case when not n.runs then $21::text end, case when not n.runs then $22::text end
    from item i
        cross join lateral (select t.at, coalesce(i.deadline > t.at, true) as runs from (select clock_timestamp() as at) t) n
    where not i.recorded and i.execute_id not in (select execute_id from held)
        and i.execute_id >= (select execute_id_floor(clock_timestamp() - make_interval(secs => $18)))
        and i.execute_id < (select execute_id_floor(clock_timestamp() + make_interval(secs => $19)))
    order by i.execute_id
    on conflict (execute_id) do nothing
    returning execute_id, state, attempt, last_log_id, version, retries, failures, claimed_at, deadline,
        waiting_since, error_class, error, exit_code, signal
),
now as (
    select c.*, null as result_type, null::bytea as result from changed c
    union all
    select m.*, null, null from made m
    union all
    select h.execute_id, h.state, h.attempt, h.last_log_id, h.version, h.retries, h.failures, h.claimed_at, h.deadline,
        h.waiting_since, h.error_class, h.error, h.exit_code, h.signal, h.result_type, h.result
    from held h where h.execute_id not in (select execute_id from changed)
)
select
    case
        when m.execute_id is not null then case m.state when 'running' then 'claimed' else 'ended' end
        when v.verdict in ('claimed_before') then 'claimed'
        when v.verdict in ('expired', 'cancelled') then 'ended'
        when v.verdict is not null then v.verdict
        when i.recorded then 'unrecorded'
        when i.execute_id < (select execute_id_floor(clock_timestamp() - make_interval(secs => $18)))
            or i.execute_id >= (select execute_id_floor(clock_timestamp() + make_interval(secs => $19))) then 'outside_window'
    end as verdict,
    n.state, n.attempt, n.last_log_id, n.version, n.retries, n.failures, n.claimed_at,
    -- (`greatest` passes over a null.)
    case when n.deadline is not null
        then greatest(extract(epoch from n.deadline - clock_timestamp()), 0)::float8 end as deadline_in,
    greatest(extract(epoch from clock_timestamp() - n.waiting_since), 0)::float8 as waited,
    n.error_class, n.error, n.exit_code, n.signal,
    case when v.verdict = 'ended' then n.result_type end as result_type,
    case when v.verdict = 'ended' then n.result end as result
from item i
    left join verdict v using (execute_id)
    left join made m using (execute_id)
    left join now n using (execute_id)
order by i.place
