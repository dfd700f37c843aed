-- Forgets contenders whose lease ran out an hour ago and whose queue nobody has asked about since. No rows.
delete from contender where leased_until < now() - interval '1 hour'
