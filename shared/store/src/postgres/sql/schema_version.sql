-- The version of the schema; 0 if no migration was applied. One row.
select coalesce(max(version), 0)::bigint from schema_migration
