-- Who has a lock or limit, and who waits, in the order of arrival. $1 tenant, $2 kind, $3 name.
select contender, fence from contender
where tenant = $1::text and kind = $2::text and name = $3::text and leased_until > clock_timestamp()
order by place
