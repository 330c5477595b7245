-- Keys at bulk speed: a foreign key is declared NOT ENFORCED and enforced for every writer by statement triggers that
-- look once at each distinct key (docs/decisions/0003). rowdock.guard(table) reads the declared keys from pg_constraint
-- and installs, or installs again, all that belongs to them, the wake-ups of waiting rows, and the table's grants.
-- A migration for a table is: create table …; select rowdock.guard('schema.table');

-- Which tables feed a roll-up: every statement appends to "deltas" one row for each distinct (period, keys).
create table rowdock.roll_ups (
  child regclass primary key,
  deltas regclass not null,
  period text not null,         -- SQL expression over a row of the child: an integer
  period_column name not null,  -- where the deltas keep it
  keys name[] not null,         -- columns of both
  counted name not null         -- where the deltas keep the number of rows, negative for rows that left
);

create function rowdock.keys_of(child regclass)
  returns table (name name, parent regclass, child_column name, parent_column name, key_type text, child_type text)
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.conname, c.confrelid::regclass, a.attname, b.attname, format_type(b.atttypid, b.atttypmod),
         format_type(a.atttypid, a.atttypmod)
  from pg_constraint c
  join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
  join pg_attribute b on b.attrelid = c.confrelid and b.attnum = c.confkey[1]
  where c.conrelid = child and c.contype = 'f' and not c.conenforced and cardinality(c.conkey) = 1
  order by c.conname
$$;

-- What a table's child side is called; regclass text would carry the schema and quotes.
create function rowdock.guard_name(prefix text, guarded regclass) returns text
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select prefix || '_' || relname from pg_class where oid = guarded
$$;

-- SQL that appends the deltas of the rows in the transition tables: "added" (may be null) and "removed" (may be null).
create function rowdock.delta_insert(r rowdock.roll_ups, source text) returns text
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('insert into %s (%I, %s, %I) select period, %s, sum(counted)::bigint from (%s) changed'
                ' group by period, %s having sum(counted) <> 0',
                r.deltas, r.period_column, columns, r.counted, columns, source, columns)
  from (select string_agg(quote_ident(k), ', ') as columns from unnest(r.keys) k) c
$$;

create function rowdock.delta_source(r rowdock.roll_ups, transition text, sign text) returns text
  language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('select %s as period, %s, %s count(*) as counted from %I group by 1, %s',
                r.period, columns, sign, transition, columns)
  from (select string_agg(quote_ident(k), ', ') as columns from unnest(r.keys) k) c
$$;

-- The child's side: every distinct key among the new rows has a parent, which is locked until the transaction ends.
-- Columns are qualified by table and variables by label, so that a table may call its columns what it likes. Row security
-- that hid a row from the owner (FORCE) makes the check fail rather than look past the row.
create function rowdock.install_child_check(child regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $install$
declare
  r rowdock.roll_ups;
  k record;
  n int := 0;
  declared text := '';
  columns text := '';
  collected text := '';
  targets text := '';
  grouped text := '';
  checks text := '';
  appended text := '';
  numbers jsonb := '{}';
  s name := (select nspname from pg_class join pg_namespace on pg_namespace.oid = relnamespace where pg_class.oid = child);
  t name := (select relname from pg_class where oid = child);
  f text := rowdock.guard_name('check', child);
begin
  select u.* into r from rowdock.roll_ups u where u.child = install_child_check.child;
  for k in select * from rowdock.keys_of(child) loop
    n := n + 1;
    numbers := numbers || jsonb_build_object(k.child_column, n);
    declared := declared || format('  k%s %s[];%s', n, k.child_type, E'\n');
    columns := columns || format('added.%I as k%s, ', k.child_column, n);
    grouped := grouped || format('added.%I, ', k.child_column);
    collected := collected || case when n > 1 then ', ' else '' end
      || format('array_agg(distinct seen.k%1$s) filter (where seen.k%1$s is not null)', n);
    targets := targets || case when n > 1 then ', ' else '' end || format('guard.k%s', n);
    checks := checks || format($check$
  if guard.k%1$s is not null then
    select count(*) into guard.present
      from (select from %2$s p where p.%3$I = any(guard.k%1$s) order by p.%3$I for key share) held;
    if guard.present <> cardinality(guard.k%1$s) then
      select missing.key::text into guard.absent from unnest(guard.k%1$s) missing (key)
        where not exists (select from %2$s p where p.%3$I = missing.key) order by missing.key limit 1;
      raise exception using errcode = 'foreign_key_violation', schema = %4$L, table = %5$L, constraint = %6$L,
        message = %7$L, detail = %8$L || coalesce(guard.absent, '?') || %9$L;
    end if;
  end if;$check$, n, k.parent, k.parent_column, s, t, k.name,
      format('insert or update on table "%s" violates foreign key constraint "%s"', t, k.name),
      format('Key (%s)=(', k.child_column),
      format(') is not present in table "%s".', (select relname from pg_class where oid = k.parent)));
  end loop;
  if r.child is not null then
    if exists (select from unnest(r.keys) key where not numbers ? key) then
      raise exception using errcode = 'feature_not_supported',
        message = format('the roll-up of %s counts by %s, which are not all keys of it', child, r.keys),
        hint = 'Declare each as a foreign key NOT ENFORCED.';
    end if;
    -- The roll-up's deltas come from the same pass over the new rows as the keys; an update's old rows are taken off.
    columns := columns || r.period || ' as period, ';
    grouped := grouped || r.period || ', ';
    appended := (
      select format(', appended as (insert into %s (%I, %s, %I) select seen.period, %s, sum(seen.counted)::bigint from seen'
                    ' group by seen.period, %s)',
                    r.deltas, r.period_column, string_agg(quote_ident(key), ', '), r.counted,
                    string_agg('seen.k' || (numbers ->> key), ', '), string_agg('seen.k' || (numbers ->> key), ', '))
      from unnest(r.keys) key
    );
  end if;
  if n = 0 then
    return;
  end if;
  execute format($function$
create or replace function rowdock.%1$I() returns trigger language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp set row_security = off set enable_sort = off set work_mem = '64MB' as $body$
#variable_conflict use_column
<<guard>>
declare
%2$s  present bigint;
  absent text;
begin
  with seen as materialized (select %3$scount(*) as counted from added group by %4$s)%5$s
  select %6$s into %7$s from seen;
%8$s
  return null;
end $body$$function$, f, declared, columns, rtrim(grouped, ', '), appended, collected, targets, checks);
  execute format('create or replace trigger rowdock_insert after insert on %s referencing new table as added'
                 ' for each statement execute function rowdock.%I()', child, f);
  execute format('create or replace trigger rowdock_update after update on %s referencing new table as added'
                 ' for each statement execute function rowdock.%I()', child, f);
  execute format('alter table %s enable always trigger rowdock_insert, enable always trigger rowdock_update', child);
end $install$;

-- What leaves the child leaves its roll-up; an emptied child empties it.
create function rowdock.install_roll_up(child regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $install$
declare
  r rowdock.roll_ups;
  f text := rowdock.guard_name('uncount', child);
begin
  select * into r from rowdock.roll_ups u where u.child = install_roll_up.child;
  if r.child is null then
    return;
  end if;
  execute format($function$
create or replace function rowdock.%I() returns trigger language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp set enable_sort = off set work_mem = '64MB' as $body$
begin
  %s;
  return null;
end $body$$function$, f, rowdock.delta_insert(r, rowdock.delta_source(r, 'removed', '-')));
  execute format($function$
create or replace function rowdock.%I() returns trigger language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp as $body$
begin
  perform metrics.forget();
  return null;
end $body$$function$, rowdock.guard_name('forget', child));
  execute format('create or replace trigger rowdock_uncount_deleted after delete on %s referencing old table as removed'
                 ' for each statement execute function rowdock.%I()', child, f);
  execute format('create or replace trigger rowdock_uncount_updated after update on %s referencing old table as removed'
                 ' for each statement execute function rowdock.%I()', child, f);
  execute format('create or replace trigger rowdock_forget after truncate on %s'
                 ' for each statement execute function rowdock.%I()', child, rowdock.guard_name('forget', child));
  execute format('alter table %s enable always trigger rowdock_uncount_deleted,'
                 ' enable always trigger rowdock_uncount_updated, enable always trigger rowdock_forget', child);
end $install$;

-- The parent's side: a key that leaves has no child. Its snapshot must see every child that committed before, which
-- only READ COMMITTED grants. TRUNCATE of a parent alone is refused by PostgreSQL itself: the key is declared.
create function rowdock.install_parent_check(parent regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $install$
declare
  k record;
  c record;
  f text := rowdock.guard_name('release', parent);
  checks text := '';
  key name;
  key_type text;
  t name := (select relname from pg_class where oid = parent);
begin
  for k in
    select q.*, o.conrelid::regclass as child, n.nspname, r.relname
    from pg_constraint o
    join pg_class r on r.oid = o.conrelid
    join pg_namespace n on n.oid = r.relnamespace
    cross join lateral rowdock.keys_of(o.conrelid::regclass) q
    where o.confrelid = install_parent_check.parent and o.contype = 'f' and q.name = o.conname
    order by o.conrelid::regclass::text, o.conname
  loop
    key := k.parent_column;
    key_type := k.key_type;
    checks := checks || format($check$
  perform from %1$s c where c.%2$I = any(guard.gone) limit 1 for key share;
  if found then
    raise exception using errcode = 'foreign_key_violation', schema = %3$L, table = %4$L, constraint = %5$L,
      message = %6$L, detail = %7$L;
  end if;$check$, k.child, k.child_column, k.nspname, k.relname, k.name,
      format('update or delete on table "%s" violates foreign key constraint "%s" on table "%s"', t, k.name, k.relname),
      format('A key of "%s" is still referenced from table "%s".', t, k.relname));
  end loop;
  if key is null then
    return;
  end if;
  execute format($function$
create or replace function rowdock.%1$I() returns trigger language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp set row_security = off as $body$
#variable_conflict use_column
<<guard>>
declare
  gone %2$s[];
begin
  gone := array(select o.%3$I from removed o where not exists (select from %4$s p where p.%3$I = o.%3$I));
  if cardinality(guard.gone) = 0 then
    return null;
  end if;
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using errcode = 'feature_not_supported',
      message = %5$L, hint = 'Run the statement in a transaction of isolation level READ COMMITTED.';
  end if;
%6$s
  return null;
end $body$$function$, f, key_type, key, parent, format('%s.%s may be removed or changed only at READ COMMITTED', t, key), checks);
  -- A row that arrives, or takes another key, may be what parked rows wait for: one wake-up a statement.
  execute format($function$
create or replace function rowdock.%1$I() returns trigger language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp as $body$
begin
  if exists (select from added) then
    insert into ingest_status.wakeups (parent_table) values (%2$L);
  end if;
  return null;
end $body$$function$, rowdock.guard_name('wake', parent), t);
  execute format($function$
create or replace function rowdock.%1$I() returns trigger language plpgsql volatile security definer
  set search_path = pg_catalog, pg_temp as $body$
begin
  if exists (select added.%3$I from added except select removed.%3$I from removed) then
    insert into ingest_status.wakeups (parent_table) values (%2$L);
  end if;
  return null;
end $body$$function$, rowdock.guard_name('rewake', parent), t, key);
  execute format('create or replace trigger rowdock_delete after delete on %s referencing old table as removed'
                 ' for each statement execute function rowdock.%I()', parent, f);
  execute format('create or replace trigger rowdock_renumber after update on %s referencing old table as removed'
                 ' for each statement execute function rowdock.%I()', parent, f);
  execute format('create or replace trigger rowdock_wake after insert on %s referencing new table as added'
                 ' for each statement execute function rowdock.%I()', parent, rowdock.guard_name('wake', parent));
  execute format('create or replace trigger rowdock_rewake after update on %s referencing new table as added'
                 ' old table as removed for each statement execute function rowdock.%I()', parent,
                 rowdock.guard_name('rewake', parent));
  execute format('alter table %s enable always trigger rowdock_delete, enable always trigger rowdock_renumber,'
                 ' enable always trigger rowdock_wake,'
                 ' enable always trigger rowdock_rewake', parent);
end $install$;

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
  -- Functions are named by their table.
  select format('the name of %s is longer than 55 bytes', guarded) from pg_class where oid = guarded and length(relname) > 55
  union all
  select format('%s of the same name is guarded', t.tgrelid::regclass)
  from pg_trigger t join pg_class o on o.oid = t.tgrelid join pg_class c on c.relname = o.relname
  where c.oid = guarded and o.oid <> guarded and starts_with(t.tgname, 'rowdock_')
  limit 1
$$;

-- Installs, or installs again, everything that a dictionary table needs besides its own definition.
create function rowdock.guard(guarded regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  k record;
  refusal text := rowdock.refusal(guarded);
begin
  if refusal is not null then
    raise exception using errcode = 'feature_not_supported', message = format('%s cannot be guarded: %s', guarded, refusal);
  end if;
  perform rowdock.grant_table(guarded);
  perform rowdock.install_child_check(guarded);
  perform rowdock.install_roll_up(guarded);
  for k in select distinct parent from rowdock.keys_of(guarded) loop
    perform rowdock.install_parent_check(k.parent);
  end loop;
  perform rowdock.install_parent_check(guarded);
  -- Whoever may execute them may hang them on a temporary table of their own and make up deltas and wake-ups.
  revoke execute on all functions in schema rowdock from public;
end $$;

-- The way back: enforce the keys natively and take the guards off. ACCESS EXCLUSIVE on the child while its rows are
-- checked once for each key; orphans, if there are any, give 23503 and change nothing.
create function rowdock.native_keys(guarded regclass) returns void
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  k record;
begin
  for k in select * from rowdock.keys_of(guarded) loop
    execute format('alter table %s alter constraint %I enforced', guarded, k.name);
  end loop;
  if exists (select from rowdock.roll_ups u where u.child = guarded) then
    raise exception 'the roll-up of % shares its trigger with the keys: give it triggers of its own first', guarded;
  end if;
  execute format('drop trigger if exists rowdock_insert on %s', guarded);
  execute format('drop trigger if exists rowdock_update on %s', guarded);
end $$;

revoke execute on all functions in schema rowdock from public;
