-- How many were hired, by year, quarter (both UTC), department and job: kept inside each writing transaction by appended
-- deltas, which nobody waits for, and folded into one pivoted table later. A read adds both up.

create table metrics.hires (
  year integer,
  department_id integer,
  job_id integer,
  q1 bigint not null default 0,
  q2 bigint not null default 0,
  q3 bigint not null default 0,
  q4 bigint not null default 0,
  primary key (year, department_id, job_id)
) with (fillfactor = 80);  -- a fold updates in place
comment on table metrics.hires is 'Hires by year, department and job, one column a quarter (UTC); deltas come on top.';

-- Its check is the employees' own, made once for each cell: neither infinity nor years before 1 are dates of hire.
create table metrics.hires_deltas (
  year integer not null constraint hired_date_is_finite_and_ad check (year >= 1),
  quarter integer not null,
  department_id integer not null,
  job_id integer not null,
  hired bigint not null
) with (autovacuum_vacuum_scale_factor = 0.05);
comment on table metrics.hires_deltas is 'Changes not yet folded: one row for each distinct cell of a writing statement.';

-- Of the ways to name a quarter this costs least (docs/decisions/0003): one call a row, two more once a group.
insert into rowdock.roll_ups (child, keys, period, period_columns, period_values, counted, deltas, base) values (
  'hired_employees.hired_employees', array['department_id', 'job_id'],
  $$date_trunc('quarter', hired_date at time zone interval '0')$$, array['year', 'quarter'],
  $$case when isfinite(period) then date_part('year', period) else 0 end::integer,
    coalesce(date_part('quarter', period), 0)::integer$$,
  'hired', 'metrics.hires_deltas', 'metrics.hires'
);

create view metrics.hires_by_quarter as
select year, quarter, department_id, job_id, sum(hired)::bigint as hired
from (
  select year, quarter, department_id, job_id, hired
  from metrics.hires h cross join lateral (values (1, q1), (2, q2), (3, q3), (4, q4)) v (quarter, hired)
  where hired <> 0
  union all
  select year, quarter, department_id, job_id, hired from metrics.hires_deltas
) cells
group by year, quarter, department_id, job_id
having sum(hired) <> 0;
comment on view metrics.hires_by_quarter is 'The roll-up as it stands: one row for each year, quarter, department and job.';

-- The same counted from the rows: what the roll-up has to equal.
create view metrics.hires_recounted as
select case when isfinite(period) then date_part('year', period) else 0 end::integer as year,
       coalesce(date_part('quarter', period), 0)::integer as quarter, department_id, job_id, hired
from (
  select date_trunc('quarter', hired_date at time zone 'UTC') as period, department_id, job_id, count(*) as hired
  from hired_employees.hired_employees group by 1, 2, 3
) cells;
comment on view metrics.hires_recounted is 'The hires counted anew, row by row.';

-- Takes the deltas that are committed now, or at_most of them, into metrics.hires; returns how many, or null if another
-- fold is at work. Nobody else removes deltas meanwhile: each is found again by its place.
create function metrics.fold(at_most bigint default null) returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  folded bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('metrics.fold', 0)) then
    return null;
  end if;
  lock table metrics.hires in row exclusive mode;  -- hires before deltas, as TRUNCATE of the employees: no deadlock
  with taken as (
    delete from metrics.hires_deltas where ctid = any(array(select ctid from metrics.hires_deltas limit at_most))
    returning year, quarter, department_id, job_id, hired
  ), cells as (
    select year, department_id, job_id,
           coalesce(sum(hired) filter (where quarter = 1), 0) as q1,
           coalesce(sum(hired) filter (where quarter = 2), 0) as q2,
           coalesce(sum(hired) filter (where quarter = 3), 0) as q3,
           coalesce(sum(hired) filter (where quarter = 4), 0) as q4,
           count(*) as deltas
    from taken group by 1, 2, 3
  ), merged as (
    insert into metrics.hires as h (year, department_id, job_id, q1, q2, q3, q4)
    select year, department_id, job_id, q1, q2, q3, q4 from cells
    on conflict (year, department_id, job_id) do update
      set q1 = h.q1 + excluded.q1, q2 = h.q2 + excluded.q2, q3 = h.q3 + excluded.q3, q4 = h.q4 + excluded.q4
  )
  select coalesce(sum(deltas), 0) into folded from cells;
  delete from metrics.hires where q1 = 0 and q2 = 0 and q3 = 0 and q4 = 0;
  return folded;
end $$;

-- Counts anew; returns the number of rows of metrics.hires. Writers of the employees wait until the transaction ends,
-- and those that were at work are waited for, with a fold: then a snapshot sees all they left, at READ COMMITTED.
create function metrics.rebuild() returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  counted bigint;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using errcode = 'feature_not_supported', message = 'hires may be counted anew only at READ COMMITTED';
  end if;
  lock table hired_employees.hired_employees in share mode;
  perform pg_advisory_xact_lock(hashtextextended('metrics.fold', 0));
  delete from metrics.hires;
  delete from metrics.hires_deltas;
  insert into metrics.hires (year, department_id, job_id, q1, q2, q3, q4)
  select year, department_id, job_id,
         coalesce(sum(hired) filter (where quarter = 1), 0), coalesce(sum(hired) filter (where quarter = 2), 0),
         coalesce(sum(hired) filter (where quarter = 3), 0), coalesce(sum(hired) filter (where quarter = 4), 0)
  from metrics.hires_recounted group by 1, 2, 3;
  get diagnostics counted = row_count;
  return counted;
end $$;

grant select on metrics.hires, metrics.hires_deltas, metrics.hires_by_quarter, metrics.hires_recounted
  to rowdock_ingest, rowdock_api, rowdock_backup, rowdock_restore;
revoke execute on function metrics.fold(bigint), metrics.rebuild() from public;
grant execute on function metrics.fold(bigint) to rowdock_ingest, rowdock_api, rowdock_restore;
-- An admin mends a roll-up over HTTP: the function only counts anew, so that who may call it can falsify nothing.
grant execute on function metrics.rebuild() to rowdock_api;

select rowdock.guard('hired_employees.departments');
select rowdock.guard('hired_employees.jobs');
select rowdock.guard('hired_employees.hired_employees');
