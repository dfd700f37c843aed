-- How many executions each node runs. One row for each that runs any.
select leased_by, count(*)::int4 as running from execution where state = 'running' group by leased_by
