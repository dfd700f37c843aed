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

-- The queues of locks and limits, one row for each who waits or has it, in the order of arrival.
create table contender (
    place integer primary key autoincrement,
    -- Chosen by who enters: entering again with it attaches, and entries counts that.
    ticket blob not null unique check (length(ticket) = 16),
    entries integer not null default 1,
    tenant text not null,
    kind text not null check (kind in ('lock', 'limit')),
    name text not null,
    running_max integer not null check (running_max > 0),
    contender text not null,
    leased_until integer not null,
    -- The fencing number; null while it waits.
    fence integer
);
create unique index contender_queue on contender (tenant, kind, name, place);
-- Whatever else goes wrong, a lock has one holder.
create unique index contender_holder on contender (tenant, name) where kind = 'lock' and fence is not null;

-- What operators ask of nodes.
create table node_setting (
    node text not null primary key,
    settings text not null
) without rowid;

-- What nodes have of bundles: it holds as long as the process that said so renews its lease.
create table bundle_announcer (
    announcer blob not null primary key,
    leased_until integer not null
) without rowid;
create table bundle_notice (
    digest blob not null check (length(digest) = 32),
    node text not null,
    announcer blob not null references bundle_announcer (announcer) on delete cascade,
    state text not null,
    primary key (digest, node)
) without rowid;
create index bundle_notice_announcer on bundle_notice (announcer);

-- When an alias was last to move to this version and could not yet, because too few nodes had it: they fetch it.
alter table version add column wanted_at integer;

-- What became of nodes. One row for each life of each node, with what it last said of itself; and its events. An event
-- with alarm is to be told to an operator.
create table node_life (
    node text not null primary key,
    state text not null check (state in ('up', 'draining', 'left', 'lost')),
    info text not null,
    changed_at integer not null
) without rowid;
create index node_life_gone on node_life (changed_at) where state in ('left', 'lost');
drop table node_event;
create table node_event (
    id integer primary key,
    name text not null,
    node text not null,
    kind text not null check (kind in ('joined', 'draining', 'back', 'resized', 'left', 'lost')),
    slots integer not null,
    alarm integer not null check (alarm in (0, 1)),
    at integer not null
);
create index node_event_name on node_event (name, id);
create index node_event_alarm on node_event (id) where alarm;
create index node_event_at on node_event (at);
