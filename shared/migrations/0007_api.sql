-- What the API needs besides the data: who may call it, what it answered to requests that may come twice, and the
-- events that were given up.
create schema api_access;
grant usage on schema api_access to rowdock_api, rowdock_backup, rowdock_restore;

-- The secret itself is nowhere: a key is shown once, when it is made.
create table api_access.keys (
  id text primary key check (id ~ '^[0-9a-z]{8,32}$'),
  name text not null,
  secret_sha256 bytea not null check (octet_length(secret_sha256) = 32),
  scopes text[] not null check (scopes <@ array['read', 'write', 'admin'] and cardinality(scopes) > 0),
  created_at timestamptz not null default now(),
  expires_at timestamptz,
  revoked_at timestamptz
);
comment on table api_access.keys is 'One row per API key; its secret is known by its SHA-256 alone.';

create table api_access.idempotency (
  principal text not null,
  key text not null,
  fingerprint bytea not null,
  status integer not null,
  headers jsonb not null,
  body bytea not null,
  created_at timestamptz not null default now(),
  primary key (principal, key)
);
comment on table api_access.idempotency is 'Answers to requests with an Idempotency-Key, kept for a day.';
create index on api_access.idempotency (created_at);

create table ingest_status.dead_letters (
  id bigint generated always as identity primary key,
  event_id text not null,
  event_source text not null,
  event_type text not null,
  subject text,
  data json not null,  -- as it came: jsonb holds no \u0000
  attributes json not null default '{}',
  received_at timestamptz not null default now(),
  replayed_at timestamptz,
  unique (event_source, event_id)
);
comment on table ingest_status.dead_letters is 'Events that were given up after their last delivery.';
create index on ingest_status.dead_letters (received_at);

-- Lists of history pass by what is most of it, loads of batches that went well.
create index on ingest_status.ingest_status (id) where kind <> 'batch';
create index on ingest_status.ingest_status (id) where state <> 'loaded';

grant select on api_access.keys to rowdock_api;
grant select, insert, update, delete on api_access.idempotency to rowdock_api;
grant select, insert, update on ingest_status.dead_letters to rowdock_api;
-- The sweep forgets dead letters and answers; it need not read what was answered.
grant select, delete on ingest_status.dead_letters to rowdock_ingest;
grant usage on schema api_access to rowdock_ingest;
grant select (principal, key, created_at), delete on api_access.idempotency to rowdock_ingest;
grant usage on sequence ingest_status.dead_letters_id_seq to rowdock_api;
grant select on all tables in schema api_access to rowdock_backup;
grant select, insert, update, delete on all tables in schema api_access to rowdock_restore;
grant select on ingest_status.dead_letters to rowdock_backup;
grant select on sequence ingest_status.dead_letters_id_seq to rowdock_backup;
grant select, insert, update, delete on ingest_status.dead_letters to rowdock_restore;
grant usage, select, update on sequence ingest_status.dead_letters_id_seq to rowdock_restore;
