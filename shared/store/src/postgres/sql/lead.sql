-- Takes or extends a lead, if it is free or the holder's. $1 what, $2 holder, $3 lease in seconds.
--
-- One row: who leads, under which fence. No row: somebody took it just now for the first time, ask again.
with led as (
    insert into leadership as l (what, holder, fence, taken, leased_until)
    values ($1::text, $2::text, 1, 1, clock_timestamp() + make_interval(secs => $3))
    on conflict (what) do update set
        holder = excluded.holder,
        leased_until = excluded.leased_until,
        fence = case when l.holder = excluded.holder then l.fence else greatest(l.fence, l.taken) + 1 end,
        taken = case when l.holder = excluded.holder then l.taken else greatest(l.fence, l.taken) + 1 end
    where l.holder = excluded.holder or l.leased_until <= clock_timestamp()
    returning l.holder, l.fence
)
select holder, fence, true as is_leader from led
union all
select holder, fence, false from leadership where what = $1::text and not exists (select from led)
