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

-- Where there is no ZooKeeper: the queues of locks and limits, one row for each who waits or has it, in the order of
-- arrival.
create table contender (
    place bigint generated always as identity primary key,
    -- Chosen by who enters: entering again with it attaches, and entries counts that.
    ticket uuid not null unique,
    entries integer not null default 1,
    tenant text not null,
    kind text not null check (kind in ('lock', 'limit')),
    name text not null,
    running_max integer not null check (running_max > 0),
    contender jsonb not null,
    leased_until timestamptz not null,
    -- The fencing number; null while it waits.
    fence bigint
)
with (fillfactor = 70);
create unique index contender_queue on contender (tenant, kind, name, place);
-- Whatever else goes wrong, a lock has one holder.
create unique index contender_holder on contender (tenant, name) where kind = 'lock' and fence is not null;
-- Dealt to whoever is granted a lock or a limit; it never falls, also over queues that were empty meanwhile.
create sequence contention_fence;

-- Renews the leases of these contenders, takes whoever's lease ran out before `moment` out of the queues they wait in, and
-- grants what is free. A row each: how many are before it in the queue, and its fence if it has it. Without a row: it is lost.
--
-- A statement of a function sees what was committed before the statement began, not only what was before the call.
-- All rows that are changed here and are not the caller's own are locked in the order of their places.
create function stand_in_queues(tickets uuid[], lease interval, moment timestamptz)
returns table (ticket uuid, before bigint, fence bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    -- After the database was away every lease looks as if it had run out.
    lost_before timestamptz := case when pg_postmaster_start_time() + lease <= moment then moment else '-infinity' end;
    -- Who only waits is asked about often, and written seldom.
    fresh_until timestamptz := moment + lease * 0.75;
begin
    perform c.place from contender c
    where c.place in (
        select m.place from contender m
        where m.ticket = any(tickets) and (m.fence is not null or m.leased_until < fresh_until)
        union all
        select o.place from contender o
        join (
            select distinct m.tenant, m.kind, m.name from contender m where m.ticket = any(tickets) and m.fence is null
        ) q using (tenant, kind, name)
        where o.leased_until <= lost_before
    )
    order by c.place for update;

    delete from contender o
    using (
        select distinct m.tenant, m.kind, m.name from contender m where m.ticket = any(tickets) and m.fence is null
    ) q
    where o.tenant = q.tenant and o.kind = q.kind and o.name = q.name
        and o.leased_until <= lost_before and o.ticket <> all(tickets);

    update contender c set leased_until = moment + lease
    where c.ticket = any(tickets) and (c.fence is not null or c.leased_until < fresh_until);

    return query
    with standing as (
        select c.place, row_number() over (partition by c.tenant, c.kind, c.name order by c.place) - 1 as before
        from contender c
        join (
            select distinct m.tenant, m.kind, m.name from contender m where m.ticket = any(tickets) and m.fence is null
        ) q using (tenant, kind, name)
    ),
    granted as (
        update contender c set fence = nextval('contention_fence'), leased_until = moment + lease
        from standing s
        where c.place = s.place and c.ticket = any(tickets) and c.fence is null and s.before < c.running_max
        returning c.place, c.fence
    )
    select c.ticket, coalesce(s.before, 0), coalesce(c.fence, g.fence)
    from contender c left join standing s using (place) left join granted g using (place)
    where c.ticket = any(tickets);
end
$$;

-- Enters a queue at its end, unless more than `waiters_max` wait in it already; a ticket that is in it attaches. One row as of
-- stand_in_queues, or with how many wait. No row: it was there and is lost, ask again.
create function enter_queue(
    entering uuid, of_tenant text, of_kind text, of_name text, most bigint, who jsonb, waiters_max bigint, lease interval
)
returns table (before bigint, fence bigint, waiters bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    moment timestamptz;
    there bigint;
    is_known boolean;
begin
    -- One after the other until it is committed: whoever sees a place sees all before it.
    perform pg_advisory_xact_lock(hashtext('contender'), hashtext(of_tenant || ' ' || of_kind || ' ' || of_name));
    moment := clock_timestamp();
    select exists (select from contender c where c.ticket = entering) into is_known;
    if not is_known then
        select count(*) into there from contender c
        where c.tenant = of_tenant and c.kind = of_kind and c.name = of_name and c.leased_until > moment;
        if there > most + waiters_max then
            return query select null::bigint, null::bigint, there - most;
            return;
        end if;
        insert into contender (ticket, tenant, kind, name, running_max, contender, leased_until)
        values (entering, of_tenant, of_kind, of_name, most, who, moment + lease);
    end if;
    return query select s.before, s.fence, null::bigint from stand_in_queues(array[entering], lease, moment) s;
    if is_known then
        update contender c set entries = c.entries + 1 where c.ticket = entering;
    end if;
end
$$;

-- What operators ask of nodes, where there is no ZooKeeper.
create table node_setting (
    node text primary key,
    settings jsonb not null
);

-- What nodes have of bundles, where there is no ZooKeeper: it holds as long as the process that said so renews its lease.
create table bundle_announcer (
    announcer uuid primary key,
    leased_until timestamptz not null
);
create table bundle_notice (
    digest bytea not null check (octet_length(digest) = 32),
    node text not null,
    announcer uuid not null references bundle_announcer on delete cascade,
    state jsonb not null,
    primary key (digest, node)
);
create index bundle_notice_announcer on bundle_notice (announcer);

-- When an alias was last to move to this version and could not yet, because too few nodes had it: they fetch it.
alter table version add column wanted_at timestamptz;

-- What became of nodes. One row for each life of each node, with what it last said of itself; and its events. An event
-- with alarm is to be told to an operator.
create table node_life (
    node text primary key,
    state text not null check (state in ('up', 'draining', 'left', 'lost')),
    info jsonb not null,
    changed_at timestamptz not null default clock_timestamp()
);
create index node_life_gone on node_life (changed_at) where state in ('left', 'lost');
drop table node_event;
create table node_event (
    event_id bigint generated always as identity primary key,
    name text not null,
    node text not null,
    kind text not null check (kind in ('joined', 'draining', 'back', 'resized', 'left', 'lost')),
    slots integer not null,
    alarm boolean not null,
    at timestamptz not null default clock_timestamp()
);
create index node_event_name on node_event (name, event_id);
create index node_event_alarm on node_event (event_id) where alarm;
create index node_event_at on node_event (at);
