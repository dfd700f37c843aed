-- One row: the highest fence dealt to a contender so far; 0 if none was.
select case when is_called then last_value else 0 end as fence from contention_fence
