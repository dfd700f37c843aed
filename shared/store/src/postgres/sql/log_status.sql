-- The log's partitions by day. No parameters. reltuples is -1 where it was never counted.
select p.day, d.sealed_at, d.lines, c.reltuples::float8 as estimate, pg_total_relation_size(p.partition) as bytes
from log_partition p join pg_class c on c.oid = p.partition left join log_day d using (day)
order by p.day
