-- One row per table and backup, with the columns that the seed's own status table has.
create table backup_status.backup_status (
  id bigint generated always as identity primary key,
  table_name text,
  number_rows bigint,
  last_id bigint
);
comment on table backup_status.backup_status is 'One row per table and backup.';

grant select, insert, update on backup_status.backup_status to rowdock_backup;
grant select on backup_status.backup_status to rowdock_api, rowdock_restore;
grant usage on all sequences in schema backup_status to rowdock_backup;
