-- The events of the last hour that an operator is to be told of, the oldest first. $1 at most so many.
select event_id, node, kind, at, slots from node_event
where alarm and at > now() - interval '1 hour' order by event_id limit $1::int8
