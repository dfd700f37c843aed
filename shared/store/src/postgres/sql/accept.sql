-- Records executions and their idempotency keys.
--
-- Arrays of equal length, one element per execution: $1 execute_id, $2 tenant, $3 model, $4 version, $5 queue, $6 input_type,
-- $7 input, $8 input_digest, $9 reply_to (null: nobody waits), $10 correlation_id, $11 deadline, $12 traceparent,
-- $13 idempotency key (null: none). $14, $15: how far back and ahead a new id may be dated, $16: how long a key is
-- remembered, in seconds. $17 attributes (null: none), one element per execution again. No id and no key may be twice in it.
--
-- One row per execution, in order: what became of it, and what was there before. A row with nothing inserted and nothing
-- there before lost a race against another statement: ask again.
with item as (
    select i.*, i.execute_id >= (select execute_id_floor(clock_timestamp() - make_interval(secs => $14)))
            and i.execute_id < (select execute_id_floor(clock_timestamp() + make_interval(secs => $15))) as in_window
    from unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::bytea[], $8::bytea[], $9::text[],
            $10::text[], $11::timestamptz[], $12::text[], $13::text[], $17::jsonb[]) with ordinality
        as i (execute_id, tenant, model, version, queue, input_type, input, input_digest, reply_to, correlation_id,
            deadline, traceparent, key, attributes, place)
),
before as materialized (
    select e.execute_id, e.tenant, e.input_digest, e.state, e.dispatched_at is null as is_undispatched
    from execution e where e.execute_id = any($1::uuid[])
),
-- The key first: whoever has it makes the row. An insertion waits for another one of the same key to commit.
key_taken as (
    insert into idempotency_key as k (tenant, model, key, execute_id, input_digest, expires_at)
    select i.tenant, i.model, i.key, i.execute_id, i.input_digest, clock_timestamp() + make_interval(secs => $16)
    from item i left join before b using (execute_id)
    where i.key is not null
        and case when b.execute_id is null then i.in_window else b.tenant = i.tenant and b.input_digest = i.input_digest end
    order by i.tenant, i.model, i.key
    on conflict (tenant, model, key) do update
        set execute_id = excluded.execute_id, input_digest = excluded.input_digest, expires_at = excluded.expires_at
        where k.expires_at <= clock_timestamp() or k.execute_id = excluded.execute_id
            and k.input_digest = excluded.input_digest
    returning k.execute_id
),
recorded as (
    insert into execution (execute_id, tenant, model, version, queue, state, input_type, input, input_digest, reply_to,
        correlation_id, reply_claim, deadline, traceparent, attributes, next_dispatch_at)
    select i.execute_id, i.tenant, i.model, i.version, i.queue, 'queued', i.input_type, i.input, i.input_digest,
        case when i.reply_to is null then '{}' else array[i.reply_to] end,
        case when i.reply_to is null then '{}' else array[i.correlation_id] end,
        case when i.reply_to is null then '{}' else array[null::uuid] end,
        i.deadline, i.traceparent, i.attributes, clock_timestamp() + interval '5 s'
    from item i
    where i.in_window and (i.key is null or i.execute_id in (select execute_id from key_taken))
    order by i.execute_id
    on conflict (execute_id) do nothing
    returning execute_id
)
select i.execute_id in (select execute_id from recorded) as is_recorded, i.in_window,
    -- The execution that has the id.
    b.state, b.tenant = i.tenant and b.input_digest = i.input_digest as is_same, b.is_undispatched,
    -- Another execution that has the key, if it is not forgotten.
    i.key is not null as has_key, t.execute_id is not null as is_key_taken,
    k.execute_id as key_execute_id, k.input_digest = i.input_digest as key_is_same,
    (select e.state from execution e where e.execute_id = k.execute_id) as key_state
from item i
    left join before b using (execute_id)
    left join key_taken t using (execute_id)
    left join idempotency_key k on k.tenant = i.tenant and k.model = i.model and k.key = i.key
        and k.expires_at > clock_timestamp()
order by i.place
