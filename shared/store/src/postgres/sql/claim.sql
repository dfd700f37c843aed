-- Claims the executions of a chunk of deliveries whose rows are there. One that has run already, in the version that its row
-- names, ends with that.
--
-- Arrays of equal length, one element per delivery: $1 execute_id, $2 claim_id, $3 node, $4 lease in seconds, $5 tenant,
-- $6 input_digest, $7 reply_to (null: nobody waits), $8 correlation_id, $9 recorded (the row should exist), $10 is_repeat
-- (redelivered, or a dispatch of our own: an address that is known is no second one), $11 when its id is dated,
-- $12 version, $13 result_type, $14 result (null: it has not run).
-- $15, $16: how far back and ahead an id may be dated, in seconds; $17: how many reply addresses a row remembers;
-- $18, $19, $20, $21: error_class and error of an expired and of a cancelled execution. $22 model, one element per delivery
-- again. No id may be twice in it.
--
-- One row per delivery, in order: a verdict, and the execution's row after it (whom to reply to only if it ends with what
-- it came to). The verdict is null if the row has just gone: ask again.
with item as (
    select i.*
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::float8[], $5::text[], $6::bytea[], $7::text[], $8::text[], $9::bool[],
            $10::bool[], $11::timestamptz[], $12::int[], $13::text[], $14::bytea[], $22::text[]) with ordinality
        as i (execute_id, claim_id, node, lease, tenant, input_digest, reply_to, correlation_id, recorded, is_repeat, dated_at,
            version, result_type, result, model, place)
),
-- Every row that is changed is locked first, in the order of the ids: so no two statements wait for each other.
held as materialized (
    select e.execute_id, e.tenant, e.model, e.state, e.attempt, e.last_log_id, e.version, e.retries, e.failures, e.claimed_at, e.deadline,
        e.waiting_since, e.cancel_requested, e.claim_id, e.input_digest, e.reply_to, e.correlation_id, e.reply_claim,
        e.error_class, e.error, e.exit_code, e.signal, e.result_type, e.result
    from execution e where e.execute_id = any($1::uuid[]) order by e.execute_id for no key update
),
judged as materialized (
    select i.*, clock_timestamp() as at,
        case
            when h.tenant <> i.tenant or h.model <> i.model or h.input_digest <> i.input_digest then 'id_reused'
            when h.state = 'running' and h.claim_id = i.claim_id then 'claimed_before'
            when h.state = 'queued' and h.cancel_requested then 'cancelled'
            when h.state = 'queued' and h.deadline <= clock_timestamp() then 'expired'
            when h.state = 'queued' and i.result is not null and h.version = i.version then 'succeeded'
            when h.state = 'queued' then 'claimed'
            when h.state in ('running', 'delayed') then 'not_now'
            when h.state = 'succeeded' and i.result is not null and h.claim_id = i.claim_id then 'succeeded_before'
            else 'ended'
        end as verdict,
        i.reply_to is not null and cardinality(h.reply_to) < $17::int
            and (i.claim_id <> all (h.reply_claim)) is not false
            and not (i.is_repeat and exists (
                select from unnest(h.reply_to, h.correlation_id) a (reply_to, correlation_id)
                where a.reply_to = i.reply_to and a.correlation_id = i.correlation_id)) as is_new_address
    from item i join held h using (execute_id)
),
verdict as materialized (
    select j.*, j.verdict in ('claimed', 'succeeded') as is_claim,
        to_char(j.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as utc,
        case j.verdict when 'not_now' then j.is_new_address
            else j.verdict in ('claimed', 'succeeded', 'expired', 'cancelled') end as changes
    from judged j
),
changed as (
    update execution e set
        state = case when v.verdict = 'claimed' then 'running' when v.verdict = 'not_now' then e.state else v.verdict end,
        attempt = e.attempt + v.is_claim::int,
        settled_attempt = case when v.verdict = 'succeeded' then e.attempt + 1 else e.settled_attempt end,
        claim_id = case when v.is_claim then v.claim_id else e.claim_id end,
        node = case when v.is_claim then v.node else e.node end,
        leased_by = case when v.verdict = 'claimed' then v.node else e.leased_by end,
        leased_until = case when v.verdict = 'claimed' then v.at + make_interval(secs => v.lease)
            else e.leased_until end,
        renewed_at = case when v.verdict = 'claimed' then v.at else e.renewed_at end,
        claimed_at = case when v.is_claim then v.at else e.claimed_at end,
        -- No later than it was dispatched: it marks how far its queue has been worked off.
        dispatched_at = case when v.is_claim then coalesce(e.dispatched_at, e.accepted_at) else e.dispatched_at end,
        next_dispatch_at = case when v.verdict = 'not_now' then e.next_dispatch_at end,
        waiting_since = case when v.verdict = 'succeeded' then null else e.waiting_since end,
        timeline = e.timeline
            || case when v.is_claim then jsonb_build_object('attempt', e.attempt + 1, 'event', 'claimed', 'at', v.utc, 'node', v.node)
                else '[]' end
            || case when v.verdict = 'succeeded' then jsonb_build_object('attempt', e.attempt + 1, 'event', 'succeeded', 'at', v.utc,
                'node', v.node) else '[]' end,
        reply_to = case when v.is_new_address then e.reply_to || v.reply_to else e.reply_to end,
        correlation_id = case when v.is_new_address then e.correlation_id || v.correlation_id else e.correlation_id end,
        reply_claim = case when v.is_new_address then e.reply_claim || v.claim_id else e.reply_claim end,
        finished_at = case when v.verdict in ('succeeded', 'expired', 'cancelled') then v.at end,
        error_class = case v.verdict when 'expired' then $18::text when 'cancelled' then $20::text end,
        error = case v.verdict when 'expired' then $19::text when 'cancelled' then $21::text end,
        result_type = case when v.verdict = 'succeeded' then v.result_type end,
        result = case when v.verdict = 'succeeded' then v.result end
    from verdict v
    where e.execute_id = v.execute_id and e.execute_id = any($1::uuid[]) and v.changes
    returning e.execute_id, e.state, e.attempt, e.last_log_id, e.version, e.retries, e.failures, e.claimed_at, e.deadline,
        e.waiting_since, e.error_class, e.error, e.exit_code, e.signal, e.reply_to, e.correlation_id
),
now as (
    select c.*, null as result_type, null::bytea as result from changed c
    union all
    select h.execute_id, h.state, h.attempt, h.last_log_id, h.version, h.retries, h.failures, h.claimed_at, h.deadline,
        h.waiting_since, h.error_class, h.error, h.exit_code, h.signal, h.reply_to, h.correlation_id,
        h.result_type, h.result
    from held h where h.execute_id not in (select execute_id from changed)
)
select
    case
        when v.verdict = 'claimed_before' then 'claimed'
        when v.verdict = 'succeeded_before' then 'succeeded'
        when v.verdict in ('expired', 'cancelled') then 'ended'
        when v.verdict is not null then v.verdict
        when i.recorded then 'unrecorded'
        when i.dated_at < clock_timestamp() - make_interval(secs => $15)
            or i.dated_at >= clock_timestamp() + make_interval(secs => $16) then 'outside_window'
    end as verdict,
    n.state, n.attempt, n.last_log_id, n.version, n.retries, n.failures, n.claimed_at,
    -- (`greatest` passes over a null.)
    case when n.deadline is not null
        then greatest(extract(epoch from n.deadline - clock_timestamp()), 0)::float8 end as deadline_in,
    greatest(extract(epoch from clock_timestamp() - n.waiting_since), 0)::float8 as waited,
    n.error_class, n.error, n.exit_code, n.signal,
    case when v.verdict in ('succeeded', 'succeeded_before') then n.reply_to end as reply_to,
    case when v.verdict in ('succeeded', 'succeeded_before') then n.correlation_id end as correlation_id,
    case when v.verdict = 'ended' then n.result_type end as result_type,
    case when v.verdict = 'ended' then n.result end as result
from item i
    left join verdict v using (execute_id)
    left join now n using (execute_id)
order by i.place
