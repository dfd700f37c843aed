-- Takes contenders out of their queues. $1 tickets. No rows.
with leaving as materialized (
    select place from contender where ticket = any($1::uuid[]) order by place for update
)
delete from contender c using leaving l where c.place = l.place
