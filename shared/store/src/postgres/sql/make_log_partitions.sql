-- Makes the log's partitions from yesterday on. $1 how many days (int). One row: how many were made.
select make_log_partitions((now() at time zone 'UTC')::date - 1, $1::int)
