-- The record on PostgreSQL. All times are the database's clock; ids are UUIDv7, so that their order is that of time.

create table execution (
    execute_id uuid primary key,
    tenant text not null,
    model text not null,
    version integer,
    queue text not null,
    state text not null check (state in
        ('queued', 'delayed', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'expired', 'dead')),
    -- The fence: grows with each claim.
    attempt integer not null default 0 check (attempt >= 0),
    -- Attempts that failed by the script's fault, and by ours.
    retries integer not null default 0,
    failures integer not null default 0,
    -- The attempt whose worker settled it last: tells a repeated finish from a late one.
    settled_attempt integer,
    last_log_id bigint not null default 0,
    cancel_requested boolean not null default false,
    accepted_at timestamptz not null default clock_timestamp(),
    deadline timestamptz,

    -- queued: dispatched_at is null until a publication was confirmed; dispatches counts the takes by sweepers since.
    dispatched_at timestamptz,
    next_dispatch_at timestamptz,
    dispatches integer not null default 0,
    -- delayed
    not_before timestamptz,
    -- running; who held it last stays in node
    claim_id uuid,
    leased_by text,
    leased_until timestamptz,
    renewed_at timestamptz,
    claimed_at timestamptz,
    node text,
    -- ended
    finished_at timestamptz,
    error_class text,
    error text,
    exit_code integer,
    signal integer,

    -- Everybody who wants a reply, by position: the queue, the caller's id, and the claim that brought it, so that
    -- repeating that claim does not add it again.
    reply_to text[] not null default '{}',
    correlation_id text[] not null default '{}',
    reply_claim uuid[] not null default '{}',

    timeline jsonb not null default '[]',
    traceparent text,
    input_digest bytea not null check (octet_length(input_digest) = 32),
    input_type text not null,
    input bytea not null,
    result_type text,
    result bytea,

    check ((state = 'running') = (leased_by is not null and leased_until is not null)),
    check ((state = 'delayed') = (not_before is not null)),
    check ((state in ('queued', 'delayed', 'running')) = (finished_at is null)),
    check ((state in ('failed', 'timed_out', 'cancelled', 'expired', 'dead')) = (error_class is not null)),
    check ((error_class is null) = (error is null)),
    check ((state = 'succeeded') = (result is not null)),
    check ((result is null) = (result_type is null)),
    check (cardinality(reply_to) = cardinality(correlation_id) and cardinality(reply_to) = cardinality(reply_claim))
)
-- Log batches and renewals touch no indexed column: with room on the page they rewrite no index.
with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

create index execution_undispatched on execution (next_dispatch_at) where state = 'queued' and dispatched_at is null;
create index execution_dispatched on execution (queue, dispatched_at) where state = 'queued' and dispatched_at is not null;
create index execution_delayed on execution (not_before) where state = 'delayed';
create index execution_deadline on execution (deadline) where state in ('queued', 'delayed') and deadline is not null;
-- As few as there are slots: whoever looks for lost leases reads them all.
create index execution_running on execution (execute_id) where state = 'running';
-- How far each queue has been worked off.
create index execution_claimed on execution (queue, claimed_at) where claimed_at is not null and dispatched_at is not null;
create index execution_model on execution (tenant, model, execute_id);

-- One partition for the ids of each day. There is no default one: it would keep the real one from being made later.
create table log (
    execute_id uuid not null,
    log_id bigint not null check (log_id > 0),
    at timestamptz not null,
    attempt integer not null,
    continues boolean not null,
    level text not null check (level in ('D', 'I', 'W', 'E')),
    line text not null check (char_length(line) <= 1000),
    primary key (execute_id, log_id)
) partition by range (execute_id);

-- The smallest UUIDv7 dated at that millisecond.
create function execute_id_floor(at timestamptz) returns uuid
language sql immutable strict parallel safe
as $$
    select (lpad(to_hex(floor(extract(epoch from at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
$$;

-- Makes the log's partitions of days (UTC) first .. first + days - 1 that are not there. Attaching one to the table does
-- not wait for those who read or write it.
create function make_log_partitions(first date, days integer) returns integer
language plpgsql
as $$
declare
    made integer := 0;
    day date;
    name text;
begin
    for day in select first + n from generate_series(0, days - 1) n loop
        name := 'log_' || to_char(day, 'YYYYMMDD');
        continue when to_regclass(quote_ident(name)) is not null;
        execute format('create table %I (like log including defaults including constraints)', name);
        execute format('alter table log attach partition %I for values from (%L) to (%L)', name,
            execute_id_floor(day::timestamp at time zone 'UTC'), execute_id_floor((day + 1)::timestamp at time zone 'UTC'));
        made := made + 1;
    end loop;
    return made;
end
$$;

create table idempotency_key (
    tenant text not null,
    model text not null,
    key text not null,
    execute_id uuid not null,
    input_digest bytea not null,
    expires_at timestamptz not null,
    primary key (tenant, model, key)
);
create index idempotency_key_expires on idempotency_key (expires_at);

create table model (
    tenant text not null,
    model text not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (tenant, model)
);
create table version (
    tenant text not null,
    model text not null,
    version integer not null check (version > 0),
    digest bytea not null check (octet_length(digest) = 32),
    bytes bigint not null,
    manifest jsonb not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (tenant, model, version),
    unique (tenant, model, digest),
    foreign key (tenant, model) references model
);
create table alias (
    tenant text not null,
    model text not null,
    alias text not null,
    version integer not null,
    primary key (tenant, model, alias),
    foreign key (tenant, model, version) references version
);

create table node (
    node text primary key,
    info jsonb not null,
    leased_until timestamptz not null
);
create table node_event (
    event_id bigint generated always as identity primary key,
    node text not null,
    kind text not null check (kind in ('up', 'down')),
    at timestamptz not null default clock_timestamp()
);
create index node_event_node on node_event (node, event_id);

-- Who leads what. taken is the highest fence taken for it, whoever dealt it out: what is written under another is refused.
create table leadership (
    what text primary key,
    holder text not null,
    fence bigint not null,
    taken bigint not null,
    leased_until timestamptz not null
);
