-- Announces a node or extends that. $1 node, $2 info, $3 lease in seconds. No rows.
insert into node (node, info, leased_until)
values ($1::text, $2::jsonb, clock_timestamp() + make_interval(secs => $3))
on conflict (node) do update set info = excluded.info, leased_until = excluded.leased_until
