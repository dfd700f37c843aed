-- Forgets executions that ended long ago. $1 only after this id, $2 how long ago in seconds, $3 at most so many.
-- One row: how many were forgotten, and the last of them (null: none was).
with old as materialized (
    select execute_id from execution
    where execute_id > $1::uuid and execute_id < execute_id_floor(now() - make_interval(secs => $2))
        and finished_at < now() - make_interval(secs => $2)
    order by execute_id limit $3::int8
    for update skip locked
),
gone as (
    delete from execution e using old
    where e.execute_id = old.execute_id and e.execute_id = any (array(select execute_id from old))
    returning e.execute_id
)
select count(*) as forgotten, (select execute_id from old order by execute_id desc limit 1) as last from gone
