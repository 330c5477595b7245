-- History of backups and restores: for people to watch. What a backup contains stands in its manifest, in the bucket.

-- One row per table and backup, with the columns that the seed's own status table has.
create table backup_status.backup_status (
  id bigint generated always as identity primary key,
  table_name text not null,
  number_rows bigint not null default 0,
  last_id bigint,
  backup_id text not null,
  run text not null,
  kind text not null check (kind in ('scheduled', 'now', 'undo')),
  scheduled_at timestamptz,
  snapshot_at timestamptz,
  state text not null check (state in ('running', 'done', 'failed')),
  started_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  bytes bigint not null default 0,
  parts integer not null default 0,
  error_code text,
  verified_at timestamptz,
  verified_depth text check (verified_depth in ('manifest', 'bytes', 'decode', 'restore')),
  verified_ok boolean,
  unique (backup_id, table_name)
);
comment on table backup_status.backup_status is 'One row per table and backup.';
comment on column backup_status.backup_status.number_rows is 'Rows that were written; while it runs, so far.';
comment on column backup_status.backup_status.last_id is 'Highest id, of a table whose key is one integer.';
comment on column backup_status.backup_status.run is 'Which run of this backup wrote the row last: a retry goes on after a crash.';
comment on column backup_status.backup_status.verified_ok is 'What the last verification found, of verified_depth.';
create index on backup_status.backup_status (state) where state = 'running';

-- One row per table and restore.
create table backup_status.restores (
  id bigint generated always as identity primary key,
  backup_id text,
  table_name text not null,
  target text not null,
  mode text not null check (mode in ('replace', 'merge', 'new_table')),
  state text not null check (state in ('running', 'done', 'failed')),
  rows_inserted bigint not null default 0,
  rows_updated bigint not null default 0,
  rows_deleted bigint not null default 0,
  undo_backup_id text,
  started_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  error_code text
);
comment on table backup_status.restores is 'One row per table and restore.';
comment on column backup_status.restores.backup_id is 'Null for a file without a manifest.';
comment on column backup_status.restores.undo_backup_id is 'The copy of the table as it was before.';

grant select, insert, update on backup_status.backup_status to rowdock_backup;
grant select on backup_status.restores to rowdock_backup;
-- A restore takes a backup first, and puts this history back too.
grant select, insert, update on backup_status.backup_status, backup_status.restores to rowdock_restore;
grant select on backup_status.backup_status, backup_status.restores to rowdock_api;
grant usage on all sequences in schema backup_status to rowdock_restore;
grant usage on sequence backup_status.backup_status_id_seq to rowdock_backup;
-- Where the sequences stand is part of a backup.
grant select on all sequences in schema ingest_status, backup_status to rowdock_backup, rowdock_restore;
grant update on all sequences in schema backup_status to rowdock_restore;

-- Tables that a restore makes beside the live ones.
create schema restored;
grant usage, create on schema restored to rowdock_restore;
