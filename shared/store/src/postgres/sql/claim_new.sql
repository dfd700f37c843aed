-- Claims executions that nobody recorded before they were published, as a direct producer's: makes their rows. One that has
-- run already is made as it ended.
--
-- Arrays of equal length, one element per delivery: $1 execute_id, $2 claim_id, $3 node, $4 lease in seconds, $5 tenant,
-- $6 model, $7 version (null: there is none), $8 queue, $9 input_type, $10 input, $11 input_digest, $12 reply_to (null: nobody
-- waits), $13 correlation_id, $14 deadline, $15 traceparent, $16 attributes (null: none), $17 when its id is dated,
-- $18 result_type, $19 result (null: it has not run).
-- $20, $21: how far back and ahead an id may be dated, in seconds; $22, $23: error_class and error of an expired execution.
-- No id may be twice in it.
--
-- One row for each that is new, with its state. All others are left as they are.
insert into execution (execute_id, tenant, model, version, queue, state, attempt, settled_attempt, claim_id, node, leased_by,
    leased_until, renewed_at, claimed_at, dispatched_at, input_type, input, input_digest, reply_to, correlation_id, reply_claim,
    deadline, traceparent, attributes, timeline, finished_at, error_class, error, result_type, result)
select i.execute_id, i.tenant, i.model, i.version, i.queue, n.state, n.is_claimed::int, case when n.has_run then 1 end,
    case when n.is_claimed then i.claim_id end, case when n.is_claimed then i.node end, case when n.runs then i.node end,
    case when n.runs then n.at + make_interval(secs => i.lease) end, case when n.runs then n.at end,
    case when n.is_claimed then n.at end,
    -- No later than it was published, as far as clocks agree: it marks how far its queue has been worked off.
    case when n.is_claimed then least(i.dated_at, n.at) end, i.input_type, i.input, i.input_digest,
    case when i.reply_to is null then '{}' else array[i.reply_to] end,
    case when i.reply_to is null then '{}' else array[i.correlation_id] end,
    case when i.reply_to is null then '{}' else array[i.claim_id] end,
    i.deadline, i.traceparent, i.attributes,
    case when n.is_claimed then jsonb_build_array(jsonb_build_object('attempt', 1, 'event', 'claimed', 'at', n.utc,
            'node', i.node)) else '[]' end
        || case when n.has_run then jsonb_build_object('attempt', 1, 'event', n.state, 'at', n.utc, 'node', i.node)
            else '[]' end,
    case when not n.runs then n.at end,
    case when not n.is_claimed then $22::text end, case when not n.is_claimed then $23::text end,
    case when n.has_run then i.result_type end, case when n.has_run then i.result end
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::float8[], $5::text[], $6::text[], $7::int[], $8::text[], $9::text[],
        $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::timestamptz[], $15::text[], $16::jsonb[], $17::timestamptz[],
        $18::text[], $19::bytea[])
    as i (execute_id, claim_id, node, lease, tenant, model, version, queue, input_type, input, input_digest, reply_to,
        correlation_id, deadline, traceparent, attributes, dated_at, result_type, result)
    cross join lateral (
        select s.at, s.state, s.state <> 'expired' as is_claimed, s.state = 'running' as runs, s.state = 'succeeded' as has_run,
            to_char(s.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as utc
        from (
            select c.at, case when i.deadline <= c.at then 'expired' when i.result is null then 'running' else 'succeeded' end
                as state
            from (select clock_timestamp() as at) c
        ) s
    ) n
where i.dated_at >= n.at - make_interval(secs => $20) and i.dated_at < n.at + make_interval(secs => $21)
order by i.execute_id
on conflict (execute_id) do nothing
returning execute_id, state, claimed_at,
    -- (`greatest` passes over a null.)
    case when deadline is not null then greatest(extract(epoch from deadline - clock_timestamp()), 0)::float8 end as deadline_in
