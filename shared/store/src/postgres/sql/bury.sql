-- Ends an execution whose message was found among the dead letters, if it is queued; makes the row if there is none.
-- $1 execute_id, $2 tenant, $3 model, $4 version (null: there is none), $5 queue, $6 input_type, $7 input, $8 input_digest,
-- $9 reply_to (null: nobody waits), $10 correlation_id, $11 deadline, $12 traceparent, $13 error_class, $14 error.
-- $15, $16: how far back and ahead a new id may be dated, in seconds. $17 attributes (null: none).
--
-- One row if it is dead by this: the execution's row. No row: it is something else, or not to be made.
insert into execution as e (execute_id, tenant, model, version, queue, state, input_type, input, input_digest, reply_to,
    correlation_id, reply_claim, deadline, traceparent, attributes, finished_at, error_class, error)
select $1::uuid, $2::text, $3::text, $4::int, $5::text, 'dead', $6::text, $7::bytea, $8::bytea,
    case when $9::text is null then '{}' else array[$9::text] end,
    case when $9::text is null then '{}' else array[$10::text] end,
    case when $9::text is null then '{}' else array[null::uuid] end,
    $11::timestamptz, $12::text, $17::jsonb, clock_timestamp(), $13::text, $14::text
where $1::uuid >= execute_id_floor(clock_timestamp() - make_interval(secs => $15))
        and $1::uuid < execute_id_floor(clock_timestamp() + make_interval(secs => $16))
    or exists (select from execution e where e.execute_id = $1::uuid)
on conflict (execute_id) do update set
    state = 'dead', next_dispatch_at = null, finished_at = excluded.finished_at, error_class = excluded.error_class,
    error = excluded.error
where e.state = 'queued' and e.tenant = excluded.tenant and e.input_digest = excluded.input_digest
returning e.execute_id, e.attempt, e.state, e.error_class, e.error, e.exit_code, e.signal, e.result_type, e.result,
    e.reply_to, e.correlation_id
