-- Replaces what is asked of a node. $1 node, $2 settings. No rows.
insert into node_setting (node, settings) values ($1::text, $2::jsonb)
on conflict (node) do update set settings = excluded.settings
