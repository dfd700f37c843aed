-- Was this schema ever migrated? One row.
select to_regclass('schema_migration') is not null
