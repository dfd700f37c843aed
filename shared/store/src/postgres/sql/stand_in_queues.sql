-- Renews the leases of contenders and grants what is free. $1 tickets, $2 lease in seconds.
--
-- A row each: how many are before it, and its fence if it has it. Without a row it is lost.
select ticket, before, fence from stand_in_queues($1::uuid[], make_interval(secs => $2), clock_timestamp())
