-- The log store at scale.

-- As before, of nothing but immutable functions: so it goes into the statements that call it instead of being called.
create or replace function execute_id_floor(at timestamptz) returns uuid
language sql immutable strict parallel safe
as $$
    select (lpad(to_hex(floor(extract(epoch from at at time zone 'UTC') * 1000)::bigint), 12, '0')
        || '70008000000000000000')::uuid
$$;

-- Days of the log (UTC, by the time their ids are dated) that are no longer written. A day without a row still is.
create table log_day (
    day date primary key,
    -- Since when its partition is in the order of the key; lines and bytes are what it had then.
    sealed_at timestamptz,
    lines bigint,
    bytes bigint,
    -- Since when its lines are gone.
    dropped_at timestamptz,
    check (sealed_at is not null or dropped_at is not null)
);

-- As before; and what is only ever added to is not vacuumed for that: it is rewritten when its day is over.
create or replace function make_log_partitions(first date, days integer) returns integer
language plpgsql
as $$
declare
    made integer := 0;
    each date;
    name text;
begin
    for each in select first + n from generate_series(0, days - 1) n loop
        name := 'log_' || to_char(each, 'YYYYMMDD');
        continue when to_regclass(quote_ident(name)) is not null;
        -- Its lines are gone, and so they stay.
        continue when exists (select from log_day d where d.day = each and d.dropped_at is not null);
        execute format('create table %I (like log including defaults including constraints)
            with (autovacuum_vacuum_insert_threshold = -1)', name);
        execute format('alter table log attach partition %I for values from (%L) to (%L)', name,
            execute_id_floor(each::timestamp at time zone 'UTC'), execute_id_floor((each + 1)::timestamp at time zone 'UTC'));
        made := made + 1;
    end loop;
    return made;
end
$$;

-- The partitions of the log, as days.
create view log_partition as
select to_date(substr(c.relname, 5), 'YYYYMMDD') as day, c.oid::regclass as partition
from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'log'::regclass and c.relname ~ '^log_[0-9]{8}$';

-- Has an execution with an id of first .. next - 1 not ended yet?
create function has_open_executions(first uuid, next uuid) returns boolean
language plpgsql
-- A partial index each, however many have ended.
set enable_seqscan = off
as $$
begin
    return exists (select from execution where state = 'running' and execute_id >= first and execute_id < next)
        or exists (select from execution where state = 'delayed' and execute_id >= first and execute_id < next)
        or exists (select from execution where state = 'queued' and dispatched_at is null
            and execute_id >= first and execute_id < next)
        or exists (select from execution where state = 'queued' and dispatched_at is not null
            and execute_id >= first and execute_id < next);
end
$$;

-- Rewrites the partition of a day that is over in the order of its key, and puts that in its place: sealed, with how many
-- lines and bytes it has. Only once nobody can write there any more: no id dated in it is new, and every execution in its
-- range has ended (open). Only for the leader of the upkeep (stale), and by one at a time (busy).
--
-- It is one transaction: whoever dies in it leaves nothing. While it copies it keeps writers out and lets readers in. The swap
-- needs the log alone for a moment; it waits for that no longer than 200 ms at a time, because all others wait behind it,
-- and gives up with lock_not_available after so many tries.
create function seal_log_day(of_day date, held_fence bigint, tries integer)
returns table (outcome text, line_count bigint, byte_count bigint)
language plpgsql
as $$
declare
    name text := 'log_' || to_char(of_day, 'YYYYMMDD');
    sealed text := name || '_sealed';
    first uuid := execute_id_floor(of_day::timestamp at time zone 'UTC');
    next uuid := execute_id_floor((of_day + 1)::timestamp at time zone 'UTC');
begin
    line_count := 0;
    byte_count := 0;
    if not pg_try_advisory_xact_lock(hashtext('log_day'), hashtext(current_schema() || name)) then
        outcome := 'busy';
        return next;
        return;
    end if;
    if not exists (select from leadership where what = 'upkeep' and taken = held_fence) then
        outcome := 'stale';
        return next;
        return;
    end if;
    -- Whoever may still write is not kept waiting.
    if has_open_executions(first, next) then
        outcome := 'open';
        return next;
        return;
    end if;
    execute format('lock table %I in share mode', name);
    -- Again after the lock: what those who wrote here have committed is seen.
    if has_open_executions(first, next) then
        outcome := 'open';
        return next;
        return;
    end if;
    execute format('create table %I (like log including defaults including constraints,
        constraint of_day check (execute_id >= %L and execute_id < %L))', sealed, first, next);
    execute format('insert into %I select * from %I order by execute_id, log_id', sealed, name);
    get diagnostics line_count = row_count;
    execute format('alter table %I add constraint %I primary key (execute_id, log_id) with (fillfactor = 100)', sealed,
        sealed || '_pkey');
    execute format('analyze %I', sealed);
    byte_count := pg_total_relation_size(sealed::regclass);
    -- What was written is on the disk by then: the commit is short.
    perform pg_sleep(0.3);
    for try in 1 .. tries loop
        begin
            set local lock_timeout = '200ms';
            perform from leadership where what = 'upkeep' and taken = held_fence for share;
            if not found then
                execute format('drop table %I', sealed);
                outcome := 'stale';
                return next;
                return;
            end if;
            execute format('alter table log detach partition %I', name);
            execute format('drop table %I', name);
            execute format('alter table %I rename to %I', sealed, name);
            execute format('alter table %I rename constraint %I to %I', name, sealed || '_pkey', name || '_pkey');
            execute format('alter table log attach partition %I for values from (%L) to (%L)', name, first, next);
            insert into log_day as d (day, sealed_at, lines, bytes) values (of_day, clock_timestamp(), line_count, byte_count)
            on conflict (day) do update set sealed_at = excluded.sealed_at, lines = excluded.lines, bytes = excluded.bytes;
            outcome := 'sealed';
            return next;
            return;
        exception when lock_not_available or deadlock_detected then
            -- Whoever waited behind this goes first.
            perform pg_sleep(0.1 + random() * 0.4);
        end;
    end loop;
    raise lock_not_available using message = format('%s could not be swapped in: it was never idle', name);
end
$$;

-- Drops the partition of a day, if it is there: dropped, with how many lines and bytes it had when it was sealed. Only once
-- nobody can write there any more and for the leader of the upkeep, and with short waits, as above.
create function drop_log_day(of_day date, held_fence bigint, tries integer)
returns table (outcome text, line_count bigint, byte_count bigint)
language plpgsql
as $$
declare
    name text := 'log_' || to_char(of_day, 'YYYYMMDD');
begin
    line_count := coalesce((select d.lines from log_day d where d.day = of_day), 0);
    byte_count := coalesce(pg_total_relation_size(to_regclass(quote_ident(name))), 0);
    if has_open_executions(execute_id_floor(of_day::timestamp at time zone 'UTC'),
            execute_id_floor((of_day + 1)::timestamp at time zone 'UTC')) then
        outcome := 'open';
        return next;
        return;
    end if;
    for try in 1 .. tries loop
        begin
            set local lock_timeout = '200ms';
            perform from leadership where what = 'upkeep' and taken = held_fence for share;
            if not found then
                outcome := 'stale';
                return next;
                return;
            end if;
            execute format('drop table if exists %I', name);
            insert into log_day as d (day, dropped_at) values (of_day, clock_timestamp())
            on conflict (day) do update set dropped_at = excluded.dropped_at;
            outcome := 'dropped';
            return next;
            return;
        exception when lock_not_available or deadlock_detected then
            perform pg_sleep(0.1 + random() * 0.4);
        end;
    end loop;
    raise lock_not_available using message = format('%s could not be dropped: the log was never idle', name);
end
$$;

-- Lists of what did not succeed, by model, by state and by error class. A successful execution is in none of them, and pays
-- for none. (`lower` changes nothing: it is how a statement asks for this index and not for the one of all of a model.)
create index execution_failed_model on execution (tenant, lower(model), execute_id) where error_class is not null;
create index execution_failed_state on execution (tenant, state, execute_id) where error_class is not null;
create index execution_failed_class on execution (tenant, error_class, execute_id) where error_class is not null;

-- The labels of callers, and executions by them. Who gives none pays for none.
alter table execution add column attributes jsonb;
create table execution_attribute (
    tenant text not null,
    -- key=value
    attribute text not null,
    execute_id uuid not null,
    primary key (tenant, attribute, execute_id)
);
create function index_attributes() returns trigger
language plpgsql
as $$
begin
    insert into execution_attribute (tenant, attribute, execute_id)
    select new.tenant, key || '=' || value, new.execute_id from jsonb_each_text(new.attributes);
    return null;
end
$$;
create function forget_attributes() returns trigger
language plpgsql
as $$
begin
    delete from execution_attribute a using jsonb_each_text(old.attributes) o
    where a.tenant = old.tenant and a.attribute = o.key || '=' || o.value and a.execute_id = old.execute_id;
    return null;
end
$$;
create trigger execution_attributes after insert on execution
    for each row when (new.attributes is not null) execute function index_attributes();
create trigger execution_forgotten after delete on execution
    for each row when (old.attributes is not null) execute function forget_attributes();
