-- Keeps others from taking a fence for the upkeep until the transaction ends. $1 fence. No row: it is not the highest taken.
select from leadership where what = 'upkeep' and taken = $1::int8 for share
