-- Does the database answer? One row.
select 1
