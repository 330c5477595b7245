"""A bare AVRO file, as the seed wrote them: taken where it is the table's, refused whole where it is not."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pytest

from shared import dictionary, migrate
from shared.avro import container
from shared.backups import foreign
from shared.backups.asked import Request
from shared.backups.restore import restore
from shared.errors import BackupDamaged, NoSuchBackup, RestoreRefused
from shared.postgres import Database
from tests.integration.backups.conftest import Vault
from tests.integration.ingest.test_fourth_table import ENTRY, MIGRATION, A

pytestmark = pytest.mark.slow  # each test takes backups of its own

JOBS = {
    "type": "record",
    "name": "jobs",
    "fields": [{"name": "id", "type": "int"}, {"name": "job", "type": "string"}],
}
GOOD = [{"id": 1, "job": "Welder"}, {"id": 9, "job": "Planner"}]


def avro(schema: Any, rows: list[dict[str, Any]], codec: str = "null") -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, fastavro.parse_schema(schema), rows, codec=codec)
    return file.getvalue()


def with_fields(*fields: tuple[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "x", "fields": [{"name": name, "type": kind} for name, kind in fields]}


@pytest.fixture
def put_back(vault: Vault, people: int, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Puts a file into the backup bucket and restores it; returns what is told of the table."""
    return putter(vault, request)


def putter(vault: Vault, request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    pool = Database(vault.database.url_for("restore"), application_name="restore-test", pool_size=6)
    request.addfinalizer(pool.close)

    def put(body: bytes, table: str = "jobs", **given: Any) -> dict[str, Any]:
        vault.services.store.put(vault.services.bucket, "old/file.avro", body)
        asked = Request(table, **{"mode": "merge", "dry_run": False, "file": "old/file.avro", **given})
        answer = restore(replace(vault.services, database=pool), asked, deadline_s=60).as_json()
        info = vault.services.store.stat(vault.services.bucket, "old/file.avro")
        assert (answer["backup_id"], answer["file"]) == (None, "old/file.avro")
        assert (answer["file_generation"], answer["file_crc32c"]) == (info.generation, info.crc32c)
        told: dict[str, Any] = answer["tables"][0] | {"undo": answer["undo_backup_id"]}
        return told

    return put


def jobs(vault: Vault) -> list[tuple[Any, ...]]:
    return vault.query("select id, job from hired_employees.jobs order by id")


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_rows_of_a_bare_file_come_back(vault: Vault, put_back: Callable[..., dict[str, Any]], codec: str) -> None:
    """One is new, one changes, what is not in the file stays; a copy is taken before."""
    told = put_back(avro(JOBS, GOOD, codec))
    assert (told["inserted"], told["updated"], told["deleted"]) == (1, 1, 0)
    assert jobs(vault) == [(1, "Welder"), (2, "Seller"), (9, "Planner")]
    assert told["undo"] is not None
    assert put_back(avro(JOBS, GOOD, codec))["undo"] is None
    history = "select backup_id, table_name, mode, state, rows_inserted, rows_updated from backup_status.restores"
    assert vault.query(f"{history} order by id limit 1") == [(None, "jobs", "merge", "done", 1, 1)]


def test_a_dry_run_of_a_file_changes_nothing(vault: Vault, put_back: Callable[..., dict[str, Any]]) -> None:
    before = jobs(vault)
    told = put_back(avro(JOBS, GOOD), dry_run=True)
    assert (told["inserted"], told["updated"], told["rows_in_backup"]) == (1, 1, 2)
    assert jobs(vault) == before


def test_replace_takes_away_what_the_file_does_not_have(vault: Vault, put_back: Callable[..., dict[str, Any]]) -> None:
    """Asked for in so many words; what employees use stays all the same, and so does the table."""
    with pytest.raises(RestoreRefused, match="500 rows"):
        put_back(avro(JOBS, GOOD), mode="replace")
    put_back(avro(JOBS, [{"id": 3, "job": "x"}]))
    told = put_back(avro(JOBS, [{"id": 1, "job": "a"}, {"id": 2, "job": "b"}]), mode="replace")
    assert (told["updated"], told["deleted"]) == (2, 1)


def test_nullable_long_and_text_are_taken_as_the_seed_wrote_them(
    vault: Vault, put_back: Callable[..., dict[str, Any]]
) -> None:
    """Names in any case and order, aliases of the dictionary too."""
    schema = with_fields(("Job", ["null", "string"]), ("ID", ["null", "long"]))
    put_back(avro(schema, [{"ID": 1, "Job": " Welder "}]))
    assert jobs(vault)[0] == (1, "Welder")
    text = with_fields(("id", "string"), ("job", "string"))
    put_back(avro(text, [{"id": "2", "job": "Buyer"}]))
    assert jobs(vault)[1] == (2, "Buyer")


FOREIGN = [
    (with_fields(("id", "int"), ("departments", "string")), "unknown field 'departments'; job is missing"),
    (with_fields(("id", "int")), "job is missing"),
    (with_fields(("id", "double"), ("job", "string")), "id is integer and cannot be made of 'double'"),
    (with_fields(("id", "int"), ("job", "bytes")), "job is text and cannot be made of 'bytes'"),
    (with_fields(("id", "int"), ("job", "string"), ("JOB", "string")), "job stands twice"),
    (with_fields(("id", "int"), ("job", "null")), "job is text and cannot be made of 'null'"),
    ({"type": "string"}, "its schema is no record"),
]


@pytest.mark.parametrize(("schema", "difference"), FOREIGN, ids=[difference for _, difference in FOREIGN])
def test_a_foreign_schema_is_refused_with_the_difference(
    vault: Vault, put_back: Callable[..., dict[str, Any]], schema: Any, difference: str
) -> None:
    """Whatever its rows are."""
    before = jobs(vault)
    with pytest.raises(RestoreRefused) as refused:
        put_back(avro(schema, []))
    assert difference in str(refused.value)
    assert jobs(vault) == before


def test_rows_that_break_a_rule_are_counted_and_nothing_is_changed(
    vault: Vault, put_back: Callable[..., dict[str, Any]]
) -> None:
    """By column and code, never with a value; a key that stands twice too."""
    before = jobs(vault)
    with pytest.raises(RestoreRefused) as refused:
        put_back(avro(JOBS, [*GOOD, {"id": 0, "job": "Secret"}, {"id": -1, "job": "  "}]))
    assert "2 of 4 rows" in str(refused.value)
    assert "record 3: id.out_of_range; record 4: id.out_of_range, job.missing" in str(refused.value)
    assert "Secret" not in str(refused.value)
    with pytest.raises(RestoreRefused, match="1 rows of the file have a key"):
        put_back(avro(JOBS, [*GOOD, GOOD[0]]))
    assert jobs(vault) == before


def test_of_many_bad_rows_the_first_are_named(vault: Vault, put_back: Callable[..., dict[str, Any]]) -> None:
    """All of them are counted, across blocks too."""
    rows = [{"id": number, "job": "x" if number % 2 else " "} for number in range(1, 40_001)]
    with pytest.raises(RestoreRefused) as refused:
        put_back(avro(JOBS, rows))
    assert "20000 of 40000 rows" in str(refused.value)
    assert "record 2: job.missing" in str(refused.value)
    assert f"record {2 * foreign.FIRST_BAD_ROWS}: job.missing" in str(refused.value)
    assert f"record {2 * foreign.FIRST_BAD_ROWS + 2}:" not in str(refused.value)


def test_a_file_beyond_the_cap_is_refused_unread(
    vault: Vault, put_back: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its size in the store; one of just the cap is taken."""
    body, before = avro(JOBS, GOOD), jobs(vault)
    monkeypatch.setattr(foreign, "MOST_BYTES", len(body) - 1)
    with pytest.raises(RestoreRefused, match="at most"):
        put_back(body)
    assert jobs(vault) == before
    monkeypatch.setattr(foreign, "MOST_BYTES", len(body))
    assert put_back(body)["inserted"] == 1


def test_texts_come_back_letter_by_letter(vault: Vault, put_back: Callable[..., dict[str, Any]]) -> None:
    """What means something to COPY as well."""
    texts = ["a\\b", "a\tb", "a\nb", "a\r\nb", "\\N", "\\.", 'q"q', "Ñandú 🙂"]
    put_back(avro(JOBS, [{"id": 100 + place, "job": text} for place, text in enumerate(texts)]))
    assert [job for id_, job in jobs(vault) if id_ >= 100] == texts


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, datetime(2021, 7, 27, 16, 2, 8, tzinfo=UTC)),
        ({"type": "long", "logicalType": "timestamp-micros"}, datetime(2021, 7, 27, 16, 2, 8, tzinfo=UTC)),
        ("string", "2021-07-27T18:02:08+02:00"),
    ],
    ids=["millis", "micros", "text"],
)
def test_an_instant_is_taken_in_each_form(
    vault: Vault, put_back: Callable[..., dict[str, Any]], kind: Any, value: Any
) -> None:
    """As AVRO's logical types, and as ISO 8601 text."""
    schema = with_fields(
        ("id", "int"), ("name", "string"), ("datetime", kind), ("department_id", "int"), ("job_id", "int")
    )
    put_back(
        avro(schema, [{"id": 5000, "name": "Ann", "datetime": value, "department_id": 1, "job_id": 1}]), "employees"
    )
    assert vault.query("select hired_date from hired_employees.hired_employees where id = 5000") == [
        (datetime(2021, 7, 27, 16, 2, 8, tzinfo=UTC),)
    ]


def test_a_file_that_is_cut_or_is_none_is_damaged(vault: Vault, put_back: Callable[..., dict[str, Any]]) -> None:
    """Cut anywhere but at a block, with a number of rows that is not its own, or no AVRO at all."""
    whole, before = avro(JOBS, GOOD), jobs(vault)
    block = whole.index(whole[-16:]) + 16
    more_rows = whole[:block] + bytes([whole[block] + 2]) + whole[block + 1 :]
    fewer_rows = whole[:block] + bytes([whole[block] - 2]) + whole[block + 1 :]
    for body in (whole[:-1], whole[:-20], whole[: block + 3], more_rows, fewer_rows, b"id,job\n1,x\n", b""):
        with pytest.raises(BackupDamaged):
            put_back(body)
    with pytest.raises(NoSuchBackup):
        put_back(whole, file="old/other.avro")
    assert jobs(vault) == before


def test_every_type_of_the_dictionary_comes_out_of_avro(
    make_vault: Callable[..., Vault], database: Any, people: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With AVRO's logical types, into a fourth table."""
    (tmp_path / "9001_contracts.sql").write_text(MIGRATION)
    migrate.migrate(database.owner_url, [migrate.MIGRATIONS, tmp_path])
    vault = make_vault(dictionary.parse(tomllib.loads(dictionary.DICTIONARY_PATH.read_text() + ENTRY)))
    schema = with_fields(
        ("code", {"type": "string", "logicalType": "uuid"}),
        ("employee_id", "int"),
        ("replaces", ["null", "string"]),
        ("signed_on", {"type": "int", "logicalType": "date"}),
        ("salary", {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}),
        ("hours", "long"),
        ("permanent", "boolean"),
        ("terms", ["null", "string"]),
    )
    row = {"code": UUID(A), "employee_id": 1, "signed_on": date(2021, 11, 7), "salary": Decimal("-12.30")}
    row["replaces"] = None  # type: ignore[assignment]
    row |= {"hours": 2**40, "permanent": True, "terms": '{"a": 1}'}  # type: ignore[dict-item]
    without = {**schema, "fields": [field for field in schema["fields"] if field["name"] != "replaces"]}
    with pytest.raises(RestoreRefused, match="replaces is missing"):  # or each would lose what it has there
        putter(vault, request)(avro(without, [row]), "contracts")
    for scale in (-1, 1001, "x", True):
        schema["fields"][4]["type"]["scale"] = scale
        with pytest.raises(RestoreRefused, match="salary is numeric"):
            putter(vault, request)(container.header(schema, bytes(16)), "contracts")
    schema["fields"][4]["type"]["scale"] = 2
    putter(vault, request)(avro(schema, [row]), "contracts")
    assert vault.query(
        "select code::text, employee_id, replaces, signed_on::text, salary::text, hours, permanent, terms::text"
        " from hired_employees.contracts"
    ) == [(A, 1, None, "2021-11-07", "-12.30", 2**40, True, '{"a": 1}')]
    employees = with_fields(
        ("id", "int"),
        ("name", "string"),
        ("datetime", {"type": "long", "logicalType": "timestamp-micros"}),
        ("department_id", "int"),
        ("job_id", "int"),
    )
    at = datetime(2021, 7, 27, 16, 2, 8, 5, tzinfo=UTC)
    person = {"id": 5000, "name": "Ann", "datetime": at, "department_id": 1, "job_id": 1}
    putter(vault, request)(avro(employees, [person]), "employees")
    assert vault.query("select hired_date from hired_employees.hired_employees where id = 5000") == [(at,)]
