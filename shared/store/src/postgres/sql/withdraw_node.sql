-- Takes a node's announcement back. $1 node. No rows.
delete from node where node = $1::text
