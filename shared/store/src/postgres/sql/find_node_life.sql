-- What is recorded of a life of a node. $1 node. No row: nothing.
select state, (info ->> 'slots')::int4 as slots from node_life where node = $1::text
