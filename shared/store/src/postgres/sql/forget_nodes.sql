-- Forgets announcements that ran out a day ago. No rows.
delete from node where leased_until < now() - interval '1 day'
