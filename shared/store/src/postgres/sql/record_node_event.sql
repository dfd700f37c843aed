-- Records that a node came or went. $1 node, $2 kind. One row if it was recorded; none if its last event says the same.
insert into node_event (node, kind)
select $1::text, $2::text
where $2::text is distinct from (select e.kind from node_event e where e.node = $1::text order by e.event_id desc limit 1)
returning event_id
