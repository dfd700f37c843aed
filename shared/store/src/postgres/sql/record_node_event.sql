-- Records an event of a node. $1 name, $2 node, $3 kind, $4 slots, $5 is an operator to be told. No rows.
insert into node_event (name, node, kind, slots, alarm) values ($1::text, $2::text, $3::text, $4::int4, $5::bool)
