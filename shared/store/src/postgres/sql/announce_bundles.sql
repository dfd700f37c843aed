-- Renews the lease of a process's notices and changes some of them. $1 announcer, $2 lease in seconds; arrays of equal
-- length, each digest and node once: $3 digest, $4 node, $5 state, null to withdraw the process's own notice.
--
-- One row: was the announcer known? If not, only the notices of this call are there.
with known as (
    select from bundle_announcer where announcer = $1::uuid
),
leased as (
    insert into bundle_announcer (announcer, leased_until)
    values ($1::uuid, clock_timestamp() + make_interval(secs => $2))
    on conflict (announcer) do update set leased_until = excluded.leased_until
),
item as materialized (
    select i.* from unnest($3::bytea[], $4::text[], $5::jsonb[]) as i (digest, node, state) order by i.digest, i.node
),
withdrawn as (
    delete from bundle_notice b using item i
    where b.digest = i.digest and b.node = i.node and b.announcer = $1::uuid and i.state is null
),
noted as (
    insert into bundle_notice (digest, node, announcer, state)
    select i.digest, i.node, $1::uuid, i.state from item i where i.state is not null
    on conflict (digest, node) do update set announcer = excluded.announcer, state = excluded.state
)
select exists (select from known) as is_known
