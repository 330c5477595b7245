-- History, rejects, parked rows and wake-ups of the ingest function.

-- One row per load that ended, written in the load's own transaction.
create table ingest_status.ingest_status (
  id bigint generated always as identity primary key,
  file_name text,
  file_size bigint,
  last_id bigint,
  kind text not null check (kind in ('file', 'batch', 're-drive')),
  table_name text,
  bucket text,
  object_name text,
  generation text,
  run integer not null default 1,
  etag text,
  crc32c text,
  state text not null check (state in ('loaded', 'rolled_back', 'refused', 'superseded', 'ignored')),
  reason_code text,
  reason text,
  forced boolean not null default false,
  columns text[],
  delimiter text,
  rows_read bigint not null default 0,
  rows_inserted bigint not null default 0,
  rows_updated bigint not null default 0,
  rows_unchanged bigint not null default 0,
  rows_rejected bigint not null default 0,
  rows_pending bigint not null default 0,
  rows_rolled_back bigint not null default 0,
  rows_deleted bigint not null default 0,
  rejects_by_reason jsonb not null default '{}',
  event_id text,
  event_source text,
  started_at timestamptz not null,
  finished_at timestamptz not null default clock_timestamp(),
  details jsonb not null default '{}',
  forgotten_at timestamptz,
  unique (bucket, object_name, generation, run),
  constraint rows_add_up check (rows_read = rows_inserted + rows_updated + rows_unchanged + rows_rejected
    + rows_pending + rows_rolled_back + rows_deleted)
);
comment on table ingest_status.ingest_status is 'One row per load that ended: a file, a batch, or rows judged again.';
comment on column ingest_status.ingest_status.file_name is 'Name of the object, or null for a batch.';
comment on column ingest_status.ingest_status.file_size is 'Bytes of the object as stored.';
comment on column ingest_status.ingest_status.last_id is 'Highest id that the load brought.';
comment on column ingest_status.ingest_status.run is '2 and up: the same generation loaded again by force.';
comment on column ingest_status.ingest_status.columns is 'Column of each field of a record, to read raw records again.';
comment on column ingest_status.ingest_status.forgotten_at is
  'When the rejects, the reason and the details of a file''s load went, retention_days after it.';
create index on ingest_status.ingest_status (finished_at) where forgotten_at is null;
-- The same content again: by crc32c and size, or by etag and size where a store knows no crc32c of the whole object.
create index on ingest_status.ingest_status (crc32c, file_size);
create index on ingest_status.ingest_status (etag, file_size);

create table ingest_status.parts (
  load_id bigint references ingest_status.ingest_status on delete cascade,
  part_number integer,
  first_byte bigint not null,
  end_byte bigint not null,
  rows_read bigint not null,
  primary key (load_id, part_number)
);
comment on table ingest_status.parts is 'Byte ranges that a load was read in; a whole file is one.';

create table ingest_status.attempts (
  id bigint generated always as identity primary key,
  bucket text not null,
  object_name text not null,
  generation text not null,
  event_id text,
  started_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  bytes_read bigint not null default 0,
  rows_read bigint not null default 0,
  outcome text,
  error_code text
);
comment on table ingest_status.attempts is 'Progress, written beside each load for people to watch; it decides nothing.';
create index on ingest_status.attempts (started_at);

-- No foreign key to the load: five million rows come in one COPY, by one function; rowdock check counts orphans.
create table ingest_status.rejects (
  load_id bigint not null,
  record_number bigint not null,
  line_number bigint not null,
  byte_offset bigint not null,
  byte_length integer not null,
  reasons text[] not null,
  raw text not null,
  live_hash text,
  closed_as text check (closed_as in ('mended', 're-driven', 'dismissed')),
  closed_at timestamptz,
  closed_by_load bigint,
  row_key text,
  primary key (load_id, record_number)
);
comment on table ingest_status.rejects is 'One row per rejected record, with every reason; its id is load_id-record_number.';
comment on column ingest_status.rejects.row_key is 'Key of the row that a re-driven record became.';
create index on ingest_status.rejects (load_id, row_key) where row_key is not null;
comment on column ingest_status.rejects.live_hash is
  'Of a record that waited: md5 of the live row of its key when it was parked, empty if there was none.';

create table ingest_status.pending (
  load_id bigint not null,
  record_number bigint not null,
  line_number bigint not null,
  byte_offset bigint not null,
  byte_length integer not null,
  table_name text not null,
  row_key text not null,
  waits_on text not null,
  waits_for text not null,
  raw text not null,
  live_hash text,
  parked_at timestamptz not null default now(),
  primary key (load_id, record_number)
);
comment on table ingest_status.pending is 'Valid records of files that wait for a parent row.';
-- In the order in which a drain walks through it; what was dealt with is passed by at one step.
create index on ingest_status.pending (table_name, waits_on, waits_for, load_id, record_number);
create index on ingest_status.pending (table_name, row_key);
create index on ingest_status.pending (table_name, parked_at);

create table ingest_status.wakeups (
  id bigint generated always as identity primary key,
  parent_table text not null,
  created_at timestamptz not null default now()
);
comment on table ingest_status.wakeups is 'A parent may have come, or a row was parked: look at the waiting rows again.';

-- The end of keeping, without a right to delete history: a file's row stays, whoever asks, so that it is not loaded again.
create function ingest_status.forget(loads bigint[], said text) returns void
  language sql security definer set search_path = pg_catalog, pg_temp as $$
  delete from ingest_status.parts where load_id = any(loads);
  delete from ingest_status.ingest_status where id = any(loads) and kind <> 'file';
  update ingest_status.ingest_status set forgotten_at = clock_timestamp(), details = '{}', reason = said
    where id = any(loads);
$$;
revoke execute on function ingest_status.forget(bigint[], text) from public;
grant execute on function ingest_status.forget(bigint[], text) to rowdock_ingest;

grant select, insert, update on ingest_status.ingest_status, ingest_status.parts to rowdock_ingest, rowdock_api;
grant select, insert, update, delete on
  ingest_status.attempts, ingest_status.rejects, ingest_status.pending, ingest_status.wakeups to rowdock_ingest;
grant select on ingest_status.attempts, ingest_status.pending to rowdock_api;
grant select, insert, update on ingest_status.rejects to rowdock_api;
grant insert on ingest_status.wakeups to rowdock_api;
grant usage on all sequences in schema ingest_status to rowdock_ingest, rowdock_api;
grant select on all tables in schema ingest_status to rowdock_backup;
grant select, insert, update, delete on all tables in schema ingest_status to rowdock_restore;
grant usage, select, update on all sequences in schema ingest_status to rowdock_restore;
