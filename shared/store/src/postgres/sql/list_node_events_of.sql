-- The last events of one node, the youngest first. $1 its name, $2 at most so many.
select event_id, node, kind, at, slots from node_event where name = $1::text order by event_id desc limit $2::int8
