-- The last events of nodes, the youngest first. $1 at most so many.
select event_id, node, kind, at, slots from node_event order by event_id desc limit $1::int8
