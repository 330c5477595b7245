-- Keys at bulk speed: a foreign key is declared NOT ENFORCED and enforced for every writer by statement triggers that
-- look once at each distinct key (docs/decisions/0003). rowdock.guard(table) reads the declared keys from pg_constraint
-- and installs, or installs again, all that belongs to them: the checks of both sides, the wake-ups of waiting rows,
-- the table's roll-up and its grants. It makes at most one trigger for each of INSERT, UPDATE, DELETE and TRUNCATE.
-- A migration for a table is: create table …; select rowdock.guard('schema.table');

-- Which table feeds a roll-up: each statement appends to "deltas" one row for each distinct (period, keys).
create table rowdock.roll_ups (
  child regclass primary key,
  keys name[] not null,            -- guarded keys of the child; base and deltas have columns of the same names
  period text not null,            -- SQL over a row of the child, computed for each row: what else to group by
  period_columns name[] not null,  -- columns of the deltas
  period_values text not null,     -- their values: SQL over "period", computed once for each distinct one
  counted name not null,           -- column of the deltas: rows that came less rows that left
  deltas regclass not null,
  base regclass not null           -- what deltas are folded into; emptied with the child
);

create function rowdock.keys_of(child regclass)
  returns table (n bigint, name name, child_column name, child_type text, parent regclass, parent_column name)
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select row_number() over (order by c.conname), c.conname, a.attname, format_type(a.atttypid, a.atttypmod),
         c.confrelid::regclass, b.attname
  from pg_constraint c
  join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
  join pg_attribute b on b.attrelid = c.confrelid and b.attnum = c.confkey[1]
  where c.conrelid = child and c.contype = 'f' and not c.conenforced
  order by c.conname
$$;

-- Why a table cannot be guarded as it is declared; null if it can.
create function rowdock.refusal(guarded regclass) returns text
  language sql stable set search_path = pg_catalog, pg_temp as $$
  -- Rows put into a partition, or taken from it, pass the triggers of the whole by.
  select format('%s is partitioned or a partition', oid::regclass) from pg_class
  where (relkind <> 'r' or relispartition)
    and (oid = guarded or oid in (select confrelid from pg_constraint where conrelid = guarded and not conenforced))
  union all
  -- The triggers check; they neither cascade nor wait for the end of the transaction.
  select format('key %s is not a plain one: one column that references the primary key, MATCH SIMPLE, NO ACTION,'
                ' NOT DEFERRABLE', c.conname)
  from pg_constraint c join pg_constraint p on p.conrelid = c.confrelid and p.contype = 'p'
  where c.conrelid = guarded and c.contype = 'f' and not c.conenforced
    and (cardinality(c.conkey) <> 1 or c.confkey <> p.conkey or c.condeferrable
         or (c.confmatchtype, c.confupdtype, c.confdeltype) <> ('s', 'a', 'a'))
  union all
  select format('its roll-up counts by %s, which is no key that is NOT ENFORCED', key)
  from rowdock.roll_ups r, unnest(r.keys) key
  where r.child = guarded
    and not exists (select from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
                    where c.conrelid = guarded and c.contype = 'f' and a.attname = key)
  limit 1
$$;

-- What each trigger function of a table has to be; guard() installs it, guard_state() compares.
-- Columns are qualified by table and variables by label, so that a table may call its columns what it likes.
create function rowdock.guard_sources(guarded regclass) returns table (event text, source text)
  language plpgsql stable set search_path = pg_catalog, pg_temp as $generator$
<<made>>
declare
  k record;
  r rowdock.roll_ups;
  schema_name name;
  table_name name;
  key_column name;            -- the primary key, where another table references it
  key_type text;
  declared text := '';
  columns text[] := '{}';     -- of a row that came or left, as the counting sees them
  names text[] := '{}';       -- the same, after it
  rolled_names text[];
  places text;                -- their positions, to group by: a name could be that of a column of the table
  targets text[] := '{}';
  arrived text[] := '{}';
  appended text := '';
  parents_checked text := '';
  children_checked text := '';
  parts text[];
begin
  select n.nspname, c.relname into made.schema_name, made.table_name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = guarded;
  select * into made.r from rowdock.roll_ups u where u.child = guarded;

  -- As a child: every distinct key that came has a parent, which stays locked until the transaction ends. Parents are
  -- locked in order of key, or two loads would deadlock.
  for k in select * from rowdock.keys_of(guarded) loop
    declared := declared || format(E'  k%s %s[];\n', k.n, k.child_type);
    columns := columns || format('c.%I as k%s', k.child_column, k.n);
    names := names || format('k%s', k.n);
    targets := targets || format('guard.k%s', k.n);
    arrived := arrived || format('array_agg(distinct seen.k%1$s) filter (where seen.k%1$s is not null and seen.came)', k.n);
    parents_checked := parents_checked || format($part$
  if guard.k%1$s is not null then
    select count(*) into guard.present
      from (select from %2$s p where p.%3$I = any(guard.k%1$s) order by p.%3$I for key share) held;
    if guard.present <> cardinality(guard.k%1$s) then
      select missing.key::text into guard.absent from unnest(guard.k%1$s) missing (key)
        where not exists (select from %2$s p where p.%3$I = missing.key) order by missing.key limit 1;
      raise exception using errcode = 'foreign_key_violation', schema = %4$L, table = %5$L, constraint = %6$L,
        message = %7$L, detail = %8$L || coalesce(guard.absent, '?') || %9$L;
    end if;
  end if;$part$, k.n, k.parent, k.parent_column, schema_name, table_name, k.name,
      format('insert or update on table "%s" violates foreign key constraint "%s"', table_name, k.name),
      format('Key (%s)=(', k.child_column),
      format(') is not present in table "%s".', (select relname from pg_class where oid = k.parent)));
  end loop;

  -- The roll-up's deltas come from the same pass over the rows as the keys.
  if r.child is not null then
    rolled_names := '{}';
    for k in select key, row_number() over () as n from unnest(r.keys) key loop
      if not exists (select from rowdock.keys_of(guarded) q where q.child_column = k.key) then  -- enforced natively
        columns := columns || format('c.%I as r%s', k.key, k.n);
        names := names || format('r%s', k.n);
        rolled_names := rolled_names || format('r%s', k.n);
      else
        rolled_names := rolled_names
          || (select format('k%s', q.n) from rowdock.keys_of(guarded) q where q.child_column = k.key limit 1);
      end if;
    end loop;
    columns := columns || format('%s as period', r.period);
    names := names || 'period'::text;
    appended := (
      select format(E'insert into %s (%s, %s, %I)\n    select %s, %s, %%ssum(seen.counted)::bigint from seen'
                    ' group by seen.period, %6$s having sum(seen.counted) <> 0',
                    r.deltas, (select string_agg(quote_ident(c), ', ') from unnest(r.period_columns) c),
                    (select string_agg(quote_ident(c), ', ') from unnest(r.keys) c), r.counted, r.period_values,
                    string_agg('seen.' || c, ', '))
      from unnest(rolled_names) c
    );
  end if;

  -- As a parent: a key that left has no child. The check must see every child that committed before, which only the
  -- snapshots of READ COMMITTED do. TRUNCATE of a parent alone is refused by PostgreSQL itself: the key is declared.
  select a.attname, format_type(a.atttypid, a.atttypmod) into made.key_column, made.key_type
    from pg_constraint p join pg_attribute a on a.attrelid = p.conrelid and a.attnum = p.conkey[1]
    where p.conrelid = guarded and p.contype = 'p'
      and exists (select from pg_constraint f where f.confrelid = guarded and f.contype = 'f' and f.confkey = p.conkey);
  for k in
    select q.*, f.conrelid::regclass as child, n.nspname, c.relname
    from pg_constraint f
    join pg_class c on c.oid = f.conrelid
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral rowdock.keys_of(f.conrelid::regclass) q
    where f.confrelid = guarded and q.parent = guarded and q.name = f.conname
    order by f.conrelid::regclass::text, f.conname
  loop
    children_checked := children_checked || format($part$
    select c.%2$I::text into guard.absent from %1$s c where c.%2$I = any(guard.gone) limit 1 for key share;
    if found then
      raise exception using errcode = 'foreign_key_violation', schema = %3$L, table = %4$L, constraint = %5$L,
        message = %6$L, detail = %7$L || guard.absent || %8$L;
    end if;$part$, k.child, k.child_column, k.nspname, k.relname, k.name,
      format('update or delete on table "%s" violates foreign key constraint "%s" on table "%s"',
             table_name, k.name, k.relname),
      format('Key (%s)=(', k.parent_column), format(') is still referenced from table "%s".', k.relname));
  end loop;
  if children_checked <> '' then
    declared := declared || format(E'  gone %s[];\n', key_type);
    children_checked := format($part$
  guard.gone := array(select o.%1$I from removed o where not exists (select from %2$s p where p.%1$I = o.%1$I));
  if cardinality(guard.gone) > 0 then
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
      raise exception using errcode = 'feature_not_supported', message = %3$L,
        hint = 'Run the statement in a transaction of isolation level READ COMMITTED.';
    end if;%4$s
  end if;$part$, key_column, guarded,
      format('%s.%s may be removed or changed only at READ COMMITTED', table_name, key_column), children_checked);
  end if;

  places := (select string_agg(n::text, ', ') from generate_series(1, cardinality(names)) n);
  foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
    parts := '{}';
    if event in ('insert', 'update') and names <> '{}' then
      parts := parts || format(E'\n  with seen as materialized (\n    %s\n  )%s\n  select %s\n    into %s from seen;%s',
        case event
          when 'insert' then
            format('select %s, count(*) as counted, true as came from added c group by %s',
                   array_to_string(columns, ', '), places)
          else
            format(E'select %1$s, sum(one) as counted, bool_or(one > 0) as came\n    from (select %2$s, 1 as one from added c'
                   '\n          union all select %2$s, -1 from removed c) changed group by %3$s',
                   array_to_string(names, ', '), array_to_string(columns, ', '), places)
        end,
        E', appended as (\n    ' || format(nullif(appended, ''), '') || E'\n  )',
        coalesce(nullif(array_to_string(arrived, ', '), ''), 'count(*)'),
        coalesce(nullif(array_to_string(targets, ', '), ''), 'guard.present'), parents_checked);
    end if;
    if event = 'delete' and appended <> '' then
      parts := parts || format(E'\n  with seen as (select %s, count(*) as counted from removed c group by %s)\n  %s;',
        array_to_string(columns, ', '), places, format(appended, '-'));
    end if;
    if event in ('update', 'delete') and children_checked <> '' then
      parts := parts || children_checked;
    end if;
    -- A row that arrives, or takes another key, may be what parked rows wait for: one wake-up a statement.
    if event in ('insert', 'update') and key_column is not null then
      parts := parts || format($part$
  if exists (select c.%1$I from added c%2$s) then
    insert into ingest_status.wakeups (parent_table) values (%3$L);
  end if;$part$, key_column,
        case event when 'update' then format(' except select c.%I from removed c', key_column) else '' end, table_name);
    end if;
    if event = 'truncate' and r.child is not null then
      parts := parts || format(E'\n  truncate %s, %s;', r.base, r.deltas);
    end if;
    source := E'\n#variable_conflict use_column\n<<guard>>\ndeclare\n' || declared
      || E'  present bigint;\n  absent text;\nbegin' || array_to_string(parts, '') || E'\n  return null;\nend ';
    if parts <> '{}' then
      return next;
    end if;
  end loop;
end $generator$;

-- rowdock.<event>_<schema>_<table>, cut and made distinct by a digest where a name would be too long.
create function rowdock.guard_name(event text, guarded regclass) returns text
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when octet_length(whole) < 64 then whole else left(whole, 40) || '_' || left(md5(whole), 16) end
  from (select event || '_' || nspname || '_' || relname as whole
        from pg_class join pg_namespace n on n.oid = relnamespace where pg_class.oid = guarded) named
$$;

-- How each guard of a table stands: in place, missing, disabled, not always (a replica role passes it by), stale (it
-- checks other keys than are declared: call guard() again), left over.
create function rowdock.guard_state(guarded regclass) returns table (trigger_name text, state text)
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(wanted.name, t.tgname::text),
         case when t.oid is null then 'missing'
              when wanted.name is null then 'left over'
              when t.tgenabled = 'D' then 'disabled'
              when t.tgenabled <> 'A' then 'not always'
              when p.prosrc is distinct from wanted.source or not p.prosecdef then 'stale'
              else 'in place' end
  from (select 'rowdock_' || s.event as name, s.source from rowdock.guard_sources(guarded) s) wanted
  full join (select * from pg_trigger where tgrelid = guarded and starts_with(tgname, 'rowdock_')) t
    on t.tgname = wanted.name
  left join pg_proc p on p.oid = t.tgfoid
  order by 1
$$;

create function rowdock.install_triggers(guarded regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp set client_min_messages = warning as $$
declare
  wanted record;
  event text;
  function_name text;
begin
  for wanted in select * from rowdock.guard_sources(guarded) loop
    function_name := rowdock.guard_name(wanted.event, guarded);
    -- enable_sort: without statistics of the transition table the planner would sort millions of rows to group them.
    -- row_security: row security that hid a row from the owner (FORCE) makes the check fail, not look past the row.
    execute format('create or replace function rowdock.%I() returns trigger language plpgsql volatile security definer'
                   ' set search_path = pg_catalog, pg_temp set row_security = off set enable_sort = off'
                   ' set work_mem = ''64MB'' as %L', function_name, wanted.source);
    -- Who may execute it may hang it on a temporary table of his own, and make up deltas and wake-ups.
    execute format('revoke execute on function rowdock.%I() from public', function_name);
    execute format('create or replace trigger rowdock_%1$s after %1$s on %2$s %3$s for each statement'
                   ' execute function rowdock.%4$I()', wanted.event, guarded,
                   case wanted.event when 'insert' then 'referencing new table as added'
                                     when 'update' then 'referencing old table as removed new table as added'
                                     when 'delete' then 'referencing old table as removed'
                                     else '' end, function_name);
    execute format('alter table %s enable always trigger rowdock_%s', guarded, wanted.event);
  end loop;
  for event in select e from unnest(array['insert', 'update', 'delete', 'truncate']) e
               except select s.event from rowdock.guard_sources(guarded) s loop
    execute format('drop trigger if exists rowdock_%s on %s', event, guarded);
    execute format('drop function if exists rowdock.%I()', rowdock.guard_name(event, guarded));
  end loop;
end $$;

create function rowdock.grant_table(guarded regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  sequence text;
begin
  execute format('grant select, insert, update on %s to rowdock_ingest', guarded);
  execute format('grant select, insert, update, delete on %s to rowdock_api, rowdock_restore', guarded);
  execute format('grant select on %s to rowdock_backup', guarded);
  for sequence in
    select pg_get_serial_sequence(guarded::text, attname) from pg_attribute
    where attrelid = guarded and attidentity <> '' and not attisdropped
  loop
    execute format('grant usage, select on sequence %s to rowdock_api', sequence);
    execute format('grant usage, select, update on sequence %s to rowdock_restore', sequence);
    execute format('grant select on sequence %s to rowdock_backup', sequence);
  end loop;
end $$;

-- Installs, or installs again, everything that a dictionary table needs besides its own definition.
create function rowdock.guard(guarded regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  refusal text := rowdock.refusal(guarded);
  parent regclass;
begin
  if refusal is not null then
    raise exception using errcode = 'feature_not_supported', message = format('%s cannot be guarded: %s', guarded, refusal);
  end if;
  perform rowdock.grant_table(guarded);
  perform rowdock.install_triggers(guarded);
  for parent in
    select distinct confrelid::regclass from pg_constraint
    where conrelid = guarded and contype = 'f' and confrelid <> guarded
  loop
    perform rowdock.install_triggers(parent);
  end loop;
end $$;

-- The way back: PostgreSQL enforces the keys, what the guards did besides stays. ACCESS EXCLUSIVE on the child while
-- its rows are checked once for each key; orphans, if there are any, give 23503 and change nothing. Forth again:
-- alter table … alter constraint … not enforced; select rowdock.guard(…), in one transaction.
create function rowdock.native_keys(guarded regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  k record;
begin
  for k in select * from rowdock.keys_of(guarded) loop
    execute format('alter table %s alter constraint %I enforced', guarded, k.name);
  end loop;
  perform rowdock.guard(guarded);
end $$;

revoke execute on all functions in schema rowdock from public;
grant select on rowdock.roll_ups to rowdock_ingest, rowdock_api, rowdock_backup, rowdock_restore;
grant execute on function
  rowdock.keys_of(regclass), rowdock.guard_sources(regclass), rowdock.guard_name(text, regclass),
  rowdock.guard_state(regclass)
  to rowdock_ingest, rowdock_api, rowdock_backup, rowdock_restore;
