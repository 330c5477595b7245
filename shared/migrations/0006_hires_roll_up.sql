-- How many were hired, by year, quarter, department and job: kept inside each writing transaction by appended deltas,
-- which nobody waits for, and folded into one pivoted table later. A read adds both up.

-- Quarters since year 0, in UTC: year * 4 + quarter - 1; 0 for infinity.
create function metrics.quarter_number(at timestamptz) returns integer
  language sql immutable parallel safe
  return coalesce(date_part('year', at at time zone 'UTC') * 4 + date_part('quarter', at at time zone 'UTC') - 1, 0)::integer;

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

-- Its check is the employees' own, made once for each cell: neither infinity nor years before 1 have a quarter here.
create table metrics.hires_deltas (
  quarter_number integer not null constraint hired_date_is_finite_and_ad check (quarter_number >= 4),
  department_id integer not null,
  job_id integer not null,
  hired bigint not null
) with (autovacuum_vacuum_scale_factor = 0.05);
comment on table metrics.hires_deltas is 'Changes not yet folded: one row for each distinct cell of a writing statement.';

create view metrics.hires_by_quarter as
select year, quarter, department_id, job_id, sum(hired)::bigint as hired
from (
  select year, quarter, department_id, job_id, hired
  from metrics.hires h cross join lateral (values (1, q1), (2, q2), (3, q3), (4, q4)) v (quarter, hired)
  where hired <> 0
  union all
  select quarter_number / 4, quarter_number % 4 + 1, department_id, job_id, hired from metrics.hires_deltas
) cells
group by year, quarter, department_id, job_id
having sum(hired) <> 0;
comment on view metrics.hires_by_quarter is 'The roll-up as it stands: one row for each year, quarter, department and job.';

-- Takes the deltas that are committed now into metrics.hires; returns how many, or null if another fold is at work.
create function metrics.fold() returns bigint
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  folded bigint;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('metrics.fold', 0)) then
    return null;
  end if;
  lock table metrics.hires in row exclusive mode;  -- hires before deltas, as everybody: no deadlock with forget()
  with taken as (
    delete from metrics.hires_deltas returning quarter_number, department_id, job_id, hired
  ), cells as (
    select quarter_number / 4 as year, department_id, job_id,
           coalesce(sum(hired) filter (where quarter_number % 4 = 0), 0) as q1,
           coalesce(sum(hired) filter (where quarter_number % 4 = 1), 0) as q2,
           coalesce(sum(hired) filter (where quarter_number % 4 = 2), 0) as q3,
           coalesce(sum(hired) filter (where quarter_number % 4 = 3), 0) as q4,
           count(*) as deltas
    from taken group by 1, 2, 3
  ), merged as (
    insert into metrics.hires as h (year, department_id, job_id, q1, q2, q3, q4)
    select year, department_id, job_id, q1, q2, q3, q4 from cells order by 1, 2, 3
    on conflict (year, department_id, job_id) do update
      set q1 = h.q1 + excluded.q1, q2 = h.q2 + excluded.q2, q3 = h.q3 + excluded.q3, q4 = h.q4 + excluded.q4
  )
  select coalesce(sum(deltas), 0) into folded from cells;
  delete from metrics.hires where q1 = 0 and q2 = 0 and q3 = 0 and q4 = 0;
  return folded;
end $$;

-- The employees were truncated. A fold at work ends first; then the snapshot must see what it and all others left.
create function metrics.forget() returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception using errcode = 'feature_not_supported',
      message = 'the hires may be truncated or counted anew only at READ COMMITTED',
      hint = 'Run the statement in a transaction of isolation level READ COMMITTED.';
  end if;
  lock table metrics.hires, metrics.hires_deltas in share row exclusive mode;
  delete from metrics.hires;
  delete from metrics.hires_deltas;
end $$;

insert into rowdock.roll_ups (child, deltas, period, period_column, keys, counted) values (
  'hired_employees.hired_employees', 'metrics.hires_deltas', 'metrics.quarter_number(hired_date)', 'quarter_number',
  array['department_id', 'job_id'], 'hired'
);

grant select on metrics.hires, metrics.hires_deltas, metrics.hires_by_quarter
  to rowdock_ingest, rowdock_api, rowdock_backup, rowdock_restore;
revoke execute on function metrics.fold(), metrics.forget() from public;
grant execute on function metrics.fold() to rowdock_ingest, rowdock_api, rowdock_restore;

select rowdock.guard('hired_employees.departments');
select rowdock.guard('hired_employees.jobs');
select rowdock.guard('hired_employees.hired_employees');
