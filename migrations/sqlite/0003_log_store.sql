-- The log store at scale.

-- Days of the log (UTC, by the time their ids are dated; days after 1970) whose lines are gone or going.
create table log_day (
    day integer primary key,
    dropped_at integer not null
);

-- Lists of what did not succeed. A successful execution is not in it, and does not pay for it.
create index execution_failed on execution (tenant, execute_id) where error_class is not null;
