-- Enters the queue of a lock or a limit at its end. $1 ticket, $2 tenant, $3 kind, $4 name, $5 how many may have it at once,
-- $6 contender, $7 how many may wait already, $8 lease in seconds.
--
-- One row: how many are before it and its fence if it has it already (also if the ticket was there); or how many wait,
-- more than may. No row: the ticket was there and is lost just now, ask again.
select before, fence, waiters from enter_queue(
    $1::uuid, $2::text, $3::text, $4::text, $5::int8, $6::jsonb, $7::int8, make_interval(secs => $8)
)
