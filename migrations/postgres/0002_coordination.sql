-- Who is alive, and who may: fences of exclusive executions, and what the coordination keeps where there is no ZooKeeper.

-- The highest fence taken for each lock: who writes under another one is refused. (Generations are raised by an operator
-- whose ensemble was rebuilt, and with it the numbers.)
create table lock_fence (
    tenant text not null,
    lock_key text not null,
    generation bigint not null,
    number bigint not null,
    execute_id uuid not null,
    attempt integer not null,
    taken_at timestamptz not null default clock_timestamp(),
    primary key (tenant, lock_key)
);
create index lock_fence_highest on lock_fence (generation, number);
-- Since when an execution waits for its lock or its limits, over all attempts that gave up waiting.
alter table execution add column waiting_since timestamptz;

