-- Takes a fence for the upkeep. $1 fence. One row if it is the highest now; none if a higher one was taken.
insert into leadership as l (what, holder, fence, taken, leased_until)
values ('upkeep', '', 0, $1::int8, '-infinity')
on conflict (what) do update set taken = excluded.taken where l.taken <= excluded.taken
returning taken
