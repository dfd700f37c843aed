-- What nodes have of bundles, by digest and node.
select b.digest, b.node, b.state::text as state
from bundle_notice b join bundle_announcer a using (announcer)
where a.leased_until > clock_timestamp()
order by b.digest, b.node collate "C"
