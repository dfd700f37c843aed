-- Who is alive, and who may: fences of exclusive executions, and what the coordination keeps where there is no ZooKeeper.

-- The highest fence taken for each lock: who writes under another one is refused. (Generations are raised by an operator
-- whose ensemble was rebuilt, and with it the numbers.)
create table lock_fence (
    tenant text not null,
    lock_key text not null,
    generation integer not null,
    number integer not null,
    execute_id blob not null check (length(execute_id) = 16),
    attempt integer not null,
    taken_at integer not null,
    primary key (tenant, lock_key)
) without rowid;
create index lock_fence_highest on lock_fence (generation, number);
-- Since when an execution waits for its lock or its limits, over all attempts that gave up waiting.
alter table execution add column waiting_since integer;

