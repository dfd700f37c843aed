-- The kind of the last event of any life of a node. $1 its name. No row: there was none.
select kind from node_event where name = $1::text order by event_id desc limit 1
