-- Withdraws all notices of a process. $1 announcer. No rows.
delete from bundle_announcer where announcer = $1::uuid
