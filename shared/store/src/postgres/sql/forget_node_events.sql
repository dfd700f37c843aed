-- Forgets old events of nodes, and lives that ended as long ago. $1 older than so many seconds, $2 at most so many events.
-- No rows.
with lives as (
    delete from node_life where state in ('left', 'lost') and changed_at < now() - make_interval(secs => $1)
)
delete from node_event where event_id = any (array(
    select event_id from node_event where at < now() - make_interval(secs => $1) order by at limit $2::int8))
