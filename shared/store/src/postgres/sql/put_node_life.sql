-- Notes what a life of a node is doing. $1 node, $2 state, $3 what it said of itself. No rows.
insert into node_life (node, state, info) values ($1::text, $2::text, $3::jsonb)
on conflict (node) do update set state = excluded.state, info = excluded.info, changed_at = excluded.changed_at
