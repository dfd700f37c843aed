-- Forgets the notices of processes whose lease ran out an hour ago. No rows.
delete from bundle_announcer where leased_until < now() - interval '1 hour'
