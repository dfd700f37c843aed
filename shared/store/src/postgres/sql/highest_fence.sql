-- The highest fence ever taken for any lock. No row if there is none.
select generation, number from lock_fence order by generation desc, number desc limit 1
