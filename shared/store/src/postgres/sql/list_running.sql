-- What runs, the oldest first. $1 on this node (null: anywhere), $2 at most so many.
select execute_id, attempt, model, queue, leased_by, claimed_at from execution
where state = 'running' and ($1::text is null or leased_by = $1::text)
order by execute_id limit $2::int8
