-- The lives of nodes that are there, and those that ended lately. $1 within so many seconds, $2 at most so many.
select info, state, changed_at from node_life
where state in ('up', 'draining') or changed_at > now() - make_interval(secs => $1)
order by node collate "C" limit $2::int8
