-- The record on SQLite. Times are microseconds after 1970 by this machine's clock; ids are the 16 bytes of a UUID.

create table execution (
    id integer primary key,
    execute_id blob not null unique check (length(execute_id) = 16),
    tenant text not null,
    model text not null,
    version integer,
    queue text not null,
    input_digest blob not null check (length(input_digest) = 32),
    traceparent text,
    deadline integer,
    accepted_at integer not null,
    state text not null check (state in
        ('queued', 'delayed', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'expired', 'dead')),
    attempt integer not null default 0 check (attempt >= 0),
    -- Attempts that failed by the script's fault, and by ours.
    retries integer not null default 0,
    failures integer not null default 0,
    last_log_id integer not null default 0,
    -- The attempt whose worker settled it last: tells a repeated finish from a late one.
    settled_attempt integer,
    cancel_requested integer not null default 0 check (cancel_requested in (0, 1)),
    -- queued: dispatched_at is null until a publication was confirmed.
    dispatched_at integer,
    takes integer not null default 0,
    next_dispatch_at integer,
    -- delayed
    not_before integer,
    -- running; who held it last stays
    node text,
    claim_id blob,
    claimed_at integer,
    renewed_at integer,
    leased_until integer,
    -- ended
    finished_at integer,
    error_class text,
    error text check (error is null or instr(error, char(0)) = 0),
    exit_code integer,
    signal integer,
    -- One JSON object per line.
    reply_addresses text not null default '',
    timeline text not null default '',
    check ((state = 'running') = (leased_until is not null)),
    check ((state = 'delayed') = (not_before is not null)),
    check ((state in ('queued', 'delayed', 'running')) = (finished_at is null)),
    check ((state in ('failed', 'timed_out', 'cancelled', 'expired', 'dead')) = (error_class is not null)),
    check ((error_class is null) = (error is null))
);

create index execution_undispatched on execution (next_dispatch_at)
    where state = 'queued' and dispatched_at is null;
create index execution_dispatched on execution (queue, dispatched_at)
    where state = 'queued' and dispatched_at is not null;
create index execution_delayed on execution (not_before) where state = 'delayed';
create index execution_running on execution (leased_until) where state = 'running';
create index execution_deadline on execution (deadline)
    where state in ('queued', 'delayed') and deadline is not null;

-- Apart from the row, which is rewritten with every step of its life.
create table execution_input (
    id integer primary key references execution (id) on delete cascade,
    content_type text not null,
    bytes blob not null
);
create table execution_result (
    id integer primary key references execution (id) on delete cascade,
    content_type text not null,
    bytes blob not null
);

-- Clustered on its key: a page of a log is a handful of pages of the file.
create table log (
    execute_id blob not null,
    log_id integer not null,
    attempt integer not null,
    level text not null check (level in ('D', 'I', 'W', 'E')),
    at integer not null,
    line text not null check (length(line) <= 1000 and instr(line, char(0)) = 0),
    continues integer not null check (continues in (0, 1)),
    primary key (execute_id, log_id)
) without rowid;

create table idempotency_key (
    tenant text not null,
    model text not null,
    key text not null,
    execute_id blob not null,
    expires_at integer not null,
    primary key (tenant, model, key)
) without rowid;
create index idempotency_key_expires on idempotency_key (expires_at);

-- How far each queue has been worked off: the latest dispatch among what was claimed in a slot of 10 s.
create table queue_mark (
    queue text not null,
    claimed_slot integer not null,
    dispatched_at integer not null,
    primary key (queue, claimed_slot)
) without rowid;

create table model (
    tenant text not null,
    model text not null,
    created_at integer not null,
    primary key (tenant, model)
) without rowid;
create table version (
    tenant text not null,
    model text not null,
    version integer not null check (version > 0),
    digest blob not null check (length(digest) = 32),
    bytes integer not null,
    manifest text not null,
    created_at integer not null,
    primary key (tenant, model, version),
    unique (tenant, model, digest),
    foreign key (tenant, model) references model (tenant, model)
);
create table alias (
    tenant text not null,
    model text not null,
    alias text not null,
    version integer not null,
    primary key (tenant, model, alias),
    foreign key (tenant, model, version) references version (tenant, model, version)
) without rowid;

create table node_lease (
    node text not null primary key,
    info text not null,
    expires_at integer not null
) without rowid;
create table node_event (
    id integer primary key,
    node text not null,
    kind text not null check (kind in ('up', 'down')),
    at integer not null
);
create index node_event_node on node_event (node, id);

create table leader (
    what text not null primary key,
    holder text not null,
    fence integer not null,
    leased_until integer not null
) without rowid;
create table fence (
    what text not null primary key,
    fence integer not null
) without rowid;
