-- The log store at scale.

-- Days of the log (UTC, by the time their ids are dated; days after 1970) whose lines are gone or going.
create table log_day (
    day integer primary key,
    dropped_at integer not null
);

-- Lists of what did not succeed. A successful execution is not in it, and does not pay for it.
create index execution_failed on execution (tenant, execute_id) where error_class is not null;

-- The labels of callers, as a JSON object, and executions by them. Who gives none pays for none.
alter table execution add column attributes text;
create table execution_attribute (
    tenant text not null,
    -- key=value
    attribute text not null,
    execute_id blob not null,
    primary key (tenant, attribute, execute_id)
) without rowid;
create trigger execution_attributes after insert on execution when new.attributes is not null
begin
    insert into execution_attribute (tenant, attribute, execute_id)
    select new.tenant, key || '=' || value, new.execute_id from json_each(new.attributes);
end;
create trigger execution_forgotten after delete on execution when old.attributes is not null
begin
    delete from execution_attribute where tenant = old.tenant and execute_id = old.execute_id
        and attribute in (select key || '=' || value from json_each(old.attributes));
end;
