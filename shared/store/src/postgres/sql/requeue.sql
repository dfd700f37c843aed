-- Gives deliveries that found no slot back: queued, not dispatched, due for dispatch later. Makes the rows there are none of;
-- those of ids dated outside the window as dead, so that they are neither run nor lost without a trace.
--
-- Arrays of equal length, one element per delivery: $1 execute_id, $2 tenant, $3 model, $4 version (null: there is none),
-- $5 queue, $6 input_type, $7 input, $8 input_digest, $9 reply_to (null: nobody waits), $10 correlation_id, $11 deadline,
-- $12 traceparent, $13 recorded (a dispatch of our own: its address may be known). $14, $15: how far back and ahead a new id may
-- be dated, $17 when they are due, in seconds; $16: how many reply addresses a row remembers; $18, $19: error_class and error
-- outside the window; $20: attributes (null: none), one element per delivery again. No id may be twice in it.
--
-- A row for each delivery whose row another statement made just now: ask again.
with item as (
    select i.*, i.execute_id >= (select execute_id_floor(clock_timestamp() - make_interval(secs => $14)))
            and i.execute_id < (select execute_id_floor(clock_timestamp() + make_interval(secs => $15))) as in_window
    from unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::bytea[], $8::bytea[], $9::text[],
            $10::text[], $11::timestamptz[], $12::text[], $13::bool[], $20::jsonb[])
        as i (execute_id, tenant, model, version, queue, input_type, input, input_digest, reply_to, correlation_id, deadline,
            traceparent, recorded, attributes)
),
held as materialized (
    select e.execute_id, e.tenant, e.state, e.input_digest, e.reply_to, e.correlation_id
    from execution e where e.execute_id = any($1::uuid[]) order by e.execute_id for no key update
),
wanted as materialized (
    select i.execute_id, i.reply_to, i.correlation_id,
        i.reply_to is not null and cardinality(h.reply_to) < $16::int
            and not (i.recorded and exists (
                select from unnest(h.reply_to, h.correlation_id) a (reply_to, correlation_id)
                where a.reply_to = i.reply_to and a.correlation_id = i.correlation_id)) as is_new_address
    from item i join held h on h.execute_id = i.execute_id and h.tenant = i.tenant and h.input_digest = i.input_digest
    where h.state in ('queued', 'running', 'delayed')
),
changed as (
    update execution e set
        dispatched_at = case when e.state = 'queued' then null else e.dispatched_at end,
        dispatches = case when e.state = 'queued' then 0 else e.dispatches end,
        next_dispatch_at = case when e.state = 'queued' then clock_timestamp() + make_interval(secs => $17)
            else e.next_dispatch_at end,
        reply_to = case when w.is_new_address then e.reply_to || w.reply_to else e.reply_to end,
        correlation_id = case when w.is_new_address then e.correlation_id || w.correlation_id else e.correlation_id end,
        reply_claim = case when w.is_new_address then e.reply_claim || null::uuid else e.reply_claim end
    from wanted w
    where e.execute_id = w.execute_id and e.execute_id = any($1::uuid[])
),
made as (
    insert into execution (execute_id, tenant, model, version, queue, state, input_type, input, input_digest, reply_to,
        correlation_id, reply_claim, deadline, traceparent, attributes, next_dispatch_at, finished_at, error_class, error)
    select i.execute_id, i.tenant, i.model, i.version, i.queue, case when i.in_window then 'queued' else 'dead' end,
        i.input_type, i.input, i.input_digest,
        case when i.reply_to is null then '{}' else array[i.reply_to] end,
        case when i.reply_to is null then '{}' else array[i.correlation_id] end,
        case when i.reply_to is null then '{}' else array[null::uuid] end,
        i.deadline, i.traceparent, i.attributes, case when i.in_window then clock_timestamp() + make_interval(secs => $17) end,
        case when not i.in_window then clock_timestamp() end, case when not i.in_window then $18::text end,
        case when not i.in_window then $19::text end
    from item i
    where i.execute_id not in (select execute_id from held)
    order by i.execute_id
    on conflict (execute_id) do nothing
    returning execute_id
)
select i.execute_id from item i
where i.execute_id not in (select execute_id from held) and i.execute_id not in (select execute_id from made)
