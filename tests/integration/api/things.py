"""A fourth table, with every type and optional columns, and names that SQL might take for its own."""

from __future__ import annotations

from typing import Any

ENTRY = """
[tables.things]
schema = "hired_employees"
api_name = "things"
file_pattern = "thing"
primary_key = "code"
[tables.things.columns.code]
type = "uuid"
[tables.things.columns.t]
type = "text"
required = false
[tables.things.columns.r]
type = "bigint"
required = false
[tables.things.columns.amount]
type = "numeric(30,2)"
required = false
[tables.things.columns.permanent]
type = "boolean"
required = false
[tables.things.columns.made_on]
type = "date"
required = false
[tables.things.columns.seen_at]
type = "timestamptz"
required = false
[tables.things.columns.data]
type = "jsonb"
required = false
[tables.things.columns.part_of]
type = "uuid"
references = "things"
required = false
[tables.things.columns.employee_id]
type = "integer"
references = "hired_employees"
required = false

[tables.words]
schema = "hired_employees"
api_name = "words"
file_pattern = "words"
primary_key = "word"
[tables.words.columns.word]
type = "text"
[tables.words.columns.rank]
type = "integer"
required = false
"""
MIGRATION = """
create table hired_employees.things (
  code uuid primary key,
  t text,
  r bigint,
  amount numeric(30,2),
  permanent boolean,
  made_on date,
  seen_at timestamptz,
  data jsonb,
  part_of uuid,
  employee_id integer,
  constraint things_part_of_fkey foreign key (part_of) references hired_employees.things not enforced,
  constraint things_employee_id_fkey foreign key (employee_id) references hired_employees.hired_employees not enforced
);
create table hired_employees.words (word text primary key, rank integer);
select rowdock.guard('hired_employees.things'), rowdock.guard('hired_employees.words');
"""
A = "aaaaaaaa-0000-4000-8000-000000000001"
B = "bbbbbbbb-0000-4000-8000-000000000002"
EMPTY: dict[str, Any] = dict.fromkeys(
    ("t", "r", "amount", "permanent", "made_on", "seen_at", "data", "part_of", "employee_id")
)
FULL: dict[str, Any] = {
    "code": A,
    "t": "text",
    "r": 9223372036854775807,
    "amount": 12.5,
    "permanent": False,
    "made_on": "2021-11-07",
    "seen_at": "2021-11-07T02:48:42.123456Z",
    "data": {"a": [1, None, {"b": "ü"}]},
    "part_of": A,
    "employee_id": None,
}
