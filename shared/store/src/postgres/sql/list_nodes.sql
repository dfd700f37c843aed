-- The nodes whose announcement has not run out, by name.
select info from node where leased_until > clock_timestamp() order by node collate "C"
