-- Ends attempts that need no fence, with their last log lines: what most settlements are.
--
-- Arrays of equal length, one element per attempt: $1 execute_id, $2 attempt, $3 base (the last_log_id its worker knows),
-- $4 how many lines, $5 the terminal state, $6 error_class, $7 error, $8 exit_code, $9 signal, $10 result_type, $11 result,
-- $12 timeline. One element per line: $13 the place of its attempt (from 1), $14 its place among the lines (from 1), $15 level,
-- $16 at, $17 line, $18 continues. No id may be twice in it.
--
-- One row for each that is ended now. All others are left as they are: finish.sql says what they are.
with settled as (
    update execution e set
        state = i.state,
        settled_attempt = i.attempt,
        last_log_id = i.base + i.lines,
        leased_by = null,
        leased_until = null,
        waiting_since = null,
        timeline = e.timeline || i.timeline,
        finished_at = clock_timestamp(),
        error_class = i.error_class,
        error = i.error,
        exit_code = i.exit_code,
        signal = i.signal,
        result_type = i.result_type,
        result = i.result
    from (
        select * from unnest($1::uuid[], $2::int[], $3::int8[], $4::int8[], $5::text[], $6::text[], $7::text[], $8::int[], $9::int[],
                $10::text[], $11::bytea[], $12::jsonb[]) with ordinality
            as i (execute_id, attempt, base, lines, state, error_class, error, exit_code, signal, result_type, result, timeline,
                place)
        -- Rows are locked in the order of the ids: so no two statements wait for each other.
        order by execute_id
    ) i
    where e.execute_id = i.execute_id and e.execute_id = any($1::uuid[])
        -- The guard.
        and e.state = 'running' and e.attempt = i.attempt and e.last_log_id = i.base
    returning i.place, e.execute_id, e.attempt, i.base, e.reply_to, e.correlation_id
),
stored as (
    insert into log (execute_id, log_id, at, attempt, continues, level, line)
    select s.execute_id, s.base + l.log_id, l.at, s.attempt, l.continues, l.level, l.line
    from unnest($13::int8[], $14::int8[], $15::text[], $16::timestamptz[], $17::text[], $18::bool[])
            as l (place, log_id, level, at, line, continues)
        join settled s using (place)
    order by s.execute_id, l.log_id
)
select place, reply_to, correlation_id from settled
