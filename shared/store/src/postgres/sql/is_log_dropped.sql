-- Are the lines of a day gone? $1 the day. One row if so.
select day from log_day where day = $1::date and dropped_at is not null
