-- One role for each function, without login: a deployment makes logins that are members of them.
-- Roles belong to the whole cluster, so another database may have made them already.
do $$
declare
  wanted text;
begin
  foreach wanted in array array['rowdock_ingest', 'rowdock_api', 'rowdock_backup', 'rowdock_restore'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      execute format('create role %I nologin', wanted);
    end if;
    execute format('grant connect on database %I to %I', current_database(), wanted);
  end loop;
  -- Loads and restores stage rows in temporary tables.
  execute format('grant temporary on database %I to rowdock_ingest, rowdock_api, rowdock_restore', current_database());
  execute format('revoke all on database %I from public', current_database());
end $$;

create schema hired_employees;
create schema ingest_status;
create schema backup_status;
create schema metrics;

grant usage on schema hired_employees, ingest_status, backup_status, metrics, rowdock
  to rowdock_ingest, rowdock_api, rowdock_backup, rowdock_restore;
grant select on rowdock.migrations to rowdock_ingest, rowdock_api, rowdock_backup, rowdock_restore;
