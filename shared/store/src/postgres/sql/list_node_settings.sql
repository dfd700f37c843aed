-- What is asked of nodes, by name.
select node, settings::text as settings from node_setting order by node collate "C"
