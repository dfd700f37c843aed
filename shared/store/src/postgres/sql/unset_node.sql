-- Asks nothing of a node any more. $1 node. No rows.
delete from node_setting where node = $1::text
