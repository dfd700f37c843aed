-- Keeps others from recording events of a node until the transaction ends. $1 node. One row.
select pg_advisory_xact_lock(hashtext('node_event'), hashtext($1::text))
