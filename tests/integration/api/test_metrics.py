"""The metrics: right at any moment, whatever writes and folds beside them, and the same at any number of employees."""

from __future__ import annotations

import csv
import io
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.rollup import fold
from tests.integration.api.conftest import Api

HIRE = "insert into hired_employees.hired_employees values (%s, 'N', %s, %s, %s)"
FOLD = "select metrics.fold()"
# Years 0001 to 9999, at the edges of quarters, with offsets that move them into another one.
EDGES = (
    "0001-01-01T00:00:00Z", "2020-12-31T23:59:59.999999Z", "2020-12-31T20:00:00-04:00", "2021-01-01T00:00:00Z",
    "2021-03-31T23:59:59Z", "2021-04-01T00:00:00+00:00", "2021-07-01T05:29:59+05:30", "2021-10-01T00:00:00Z",
    "2021-12-31T23:59:59Z", "2022-01-01T00:30:00+01:00", "9999-12-31T23:59:59Z",
)  # fmt: skip


def hire(api: Api, *rows: tuple[int, str, int, int]) -> None:
    for row in rows:
        api.query(HIRE, *row)


def recounted(api: Api, year: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], float]:
    """What both metrics have to say, counted in Python from the rows themselves."""
    departments = dict(api.query("select id, departments from hired_employees.departments"))
    jobs = dict(api.query("select id, job from hired_employees.jobs"))
    hired = api.query("select hired_date, department_id, job_id from hired_employees.hired_employees")
    cells: Counter[tuple[int, int, int]] = Counter()
    for at, department, job in hired:
        utc = at.astimezone(UTC)
        if utc.year == year:
            cells[department, job, (utc.month - 1) // 3 + 1] += 1
    pairs = sorted({(departments[d], jobs[j], d, j) for d, j, _ in cells})
    quarters = [
        {"departments": name, "job": job, **{f"Q{q}": cells[d, j, q] for q in (1, 2, 3, 4)}}
        for name, job, d, j in pairs
    ]
    totals = {d: sum(n for (of, _, _), n in cells.items() if of == d) for d in departments}
    mean = sum(totals.values()) / len(totals) if totals else 0
    above = [
        {"department_id": d, "departments": departments[d], "hired": n}
        for d, n in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
        if n > mean
    ]
    return quarters, above, round(mean, 4)


def agrees(api: Api, *years: int) -> None:
    for year in years:
        quarters, above, mean = recounted(api, year)
        assert api.get(f"/api/{year:04}/quarters").data == quarters
        answer = api.get(f"/api/{year:04}/departments").json
        assert (answer["data"], answer["mean"]) == (above, pytest.approx(mean, abs=1e-4))


def load_challenge(api: Api, folder: Path) -> None:
    """The rows that keep the rules, by COPY."""
    with closing(api.connect("ingest")) as conn, conn, conn.cursor() as cursor:
        for table in ("departments", "jobs", "hired_employees"):
            rows = csv.reader(io.StringIO((folder / f"{table}.csv").read_text()))
            whole = io.StringIO()
            csv.writer(whole).writerows(row for row in rows if all(row))
            whole.seek(0)
            cursor.copy_expert(f"copy hired_employees.{table} from stdin (format csv)", whole)


def test_the_real_files_have_the_figures_that_are_known(api: Api, challenge_data: Path) -> None:
    """1643 hires in 2021 in 933 pairs; seven departments hired more than the mean of all twelve."""
    load_challenge(api, challenge_data)
    for _ in ("deltas", "folded"):
        rows = api.get("/api/2021/quarters").data
        assert len(rows) == 933
        assert [sum(row[q] for row in rows) for q in ("Q1", "Q2", "Q3", "Q4")] == [249, 454, 453, 487]
        names = [(row["departments"], row["job"]) for row in rows]
        assert names == sorted(names)
        answer = api.get("/api/2021/departments").json
        assert [(row["departments"], row["hired"]) for row in answer["data"]] == [
            ("Support", 216),
            ("Engineering", 205),
            ("Human Resources", 201),
            ("Services", 200),
            ("Business Development", 185),
            ("Research and Development", 148),
            ("Marketing", 142),
        ]
        assert answer["mean"] == 136.9167
        api.query(FOLD)


def test_a_year_and_its_zone_are_said(parents: Api) -> None:
    hire(parents, (1, "2021-02-03T00:00:00Z", 1, 1))
    assert parents.get("/api/2021/quarters").json == {
        "data": [{"departments": "Engineering", "job": "Engineer", "Q1": 1, "Q2": 0, "Q3": 0, "Q4": 0}],
        "year": 2021,
        "time_zone": "UTC",
    }
    assert parents.get("/api/2021/departments").json == {
        "data": [{"department_id": 1, "departments": "Engineering", "hired": 1}],
        "mean": 0.3333,
        "year": 2021,
        "time_zone": "UTC",
    }


def test_a_year_without_hires_is_empty(parents: Api) -> None:
    """No data, a mean of 0; and so it is without any department."""
    assert parents.get("/api/1987/quarters").data == []
    for _ in range(2):
        answer = parents.get("/api/1987/departments").json
        assert (answer["data"], answer["mean"]) == ([], 0)
        parents.query("delete from hired_employees.departments")


def test_departments_that_all_hired_the_mean_are_not_above_it(parents: Api) -> None:
    hire(parents, *((n, "2021-02-03T00:00:00Z", n, 1) for n in (1, 2, 3)))
    assert parents.get("/api/2021/departments").json["data"] == []


def test_the_mean_is_over_departments_without_hires_too(parents: Api) -> None:
    """With 1 and 2 hires in two of three departments the mean is 1: one department is above it."""
    hire(parents, *((n, "2021-02-03T00:00:00Z", d, 1) for n, d in ((1, 1), (2, 2), (3, 2))))
    answer = parents.get("/api/2021/departments").json
    assert answer["mean"] == 1
    assert [row["department_id"] for row in answer["data"]] == [2]


def test_as_many_hires_go_by_id(parents: Api) -> None:
    hire(parents, *((n, "2021-02-03T00:00:00Z", d, 1) for n, d in enumerate((3, 3, 2, 2), 1)))
    assert [row["department_id"] for row in parents.get("/api/2021/departments").data] == [2, 3]


def test_a_year_that_is_none_is_not_found(api: Api) -> None:
    """Four ASCII digits, 0001 to 9999, or there is nothing at the path."""
    for year in (
        "0000",
        "21",
        "02021",
        "abcd",
        "2 21",
        "-202",
        "+202",
        "\uff12\uff10\uff12\uff11",
        "\u0662\u0660\u0662\u0661",
        "20.1",
    ):
        assert [api.get(f"/api/{year}/{metric}").status for metric in ("quarters", "departments")] == [404, 404]


def test_every_year_of_a_hire_can_be_asked_for(parents: Api) -> None:
    """Quarters are those of UTC, whatever offset the hire was written with."""
    hire(parents, *((n, at, 1, 1) for n, at in enumerate(EDGES, 1)))
    agrees(parents, 1, 2020, 2021, 2022, 9999)


def test_names_are_ordered_by_code_point_and_pairs_of_one_name_stay_apart(api: Api) -> None:
    """As COLLATE "C" orders them; keys are the truth, and names may repeat."""
    names = ["a", "B", "Zebra", "Äpfel", "a b", "a-b", "a", "😀", "\uffee", ""]
    for n, name in enumerate(names, 1):
        api.query("insert into hired_employees.departments values (%s, %s)", n, name)
        api.query("insert into hired_employees.jobs values (%s, %s)", n, name)
    hire(api, *((n, "2021-05-05T00:00:00Z", 1 + n % 10, 1 + n * 7 % 10) for n in range(1, 40)))
    agrees(api, 2021)
    assert sum(row["departments"] == "a" for row in api.get("/api/2021/departments").data) <= 2
    api.query("update hired_employees.departments set departments = 'renamed' where id = 3")
    agrees(api, 2021)


NAUGHTY = ["", " ", '"', '""', ",", "a,b", "line\nbreak", "\r\n", "\t", "=1+1", "';--", "{}", "%s %(x)s", "\\",
           "\u2028", "ñ", "\u202e", "<script>", "null", "\x01\x1f\x7f"]  # fmt: skip


def test_naughty_names_come_out_as_they_are(api: Api) -> None:
    """As JSON and as CSV."""
    for n, name in enumerate(NAUGHTY, 1):
        api.query("insert into hired_employees.departments values (%s, %s)", n, name)
        api.query("insert into hired_employees.jobs values (%s, %s)", n, name)
        hire(api, (n, "2021-05-05T00:00:00Z", n, n))
    api.query("insert into hired_employees.departments values (100, 'none hired')")
    expected, above, _ = recounted(api, 2021)
    assert api.get("/api/2021/quarters").data == expected
    for path, rows in (("quarters", expected), ("departments", above)):
        answer = api.get(f"/api/2021/{path}", accept="text/csv")
        assert answer.response.content_type == "text/csv; charset=utf-8; header=present"
        read = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert read == [{name: str(value) for name, value in row.items()} for row in rows]


def test_the_mean_stands_beside_the_csv(parents: Api) -> None:
    hire(parents, (1, "2021-02-03T00:00:00Z", 1, 1))
    answer = parents.get("/api/2021/departments", accept="text/csv")
    assert answer.headers["rowdock-mean"] == "0.3333"
    assert answer.text == 'department_id,departments,hired\n1,"Engineering",1\n'


ACCEPTED = {
    "": "application/json",
    "*/*": "application/json",
    "text/*": "text/csv; charset=utf-8; header=present",
    "text/csv;q=0.5, application/json;q=0.4": "text/csv; charset=utf-8; header=present",
    "TEXT/CSV; header=present": "text/csv; charset=utf-8; header=present",
    "text/html, */*;q=0.1": "application/json",
    "application/json;q=0, */*": "text/csv; charset=utf-8; header=present",
    "text/csv;q=odd, application/json;q=0.1": "application/json",
}


def test_the_caller_chooses_the_form(api: Api) -> None:
    """By Accept: the most specific range decides, then quality, then our own order."""
    found = {accept: api.get("/api/2021/quarters", accept=accept).response.content_type for accept in ACCEPTED}
    assert found == ACCEPTED


def test_a_form_that_is_not_offered_is_406(api: Api) -> None:
    """And the problem lists those that are."""
    for accept in ("text/html", "image/*", "text/csv;q=0", "text/csv;q=odd", "nonsense"):
        answer = api.get("/api/2021/quarters", accept=accept)
        assert (answer.status, answer.json["code"]) == (406, "request.not_acceptable")
        assert "text/csv" in answer.json["detail"]


def test_a_parameter_that_is_none_is_refused(api: Api) -> None:
    """A misspelt filter does not give an answer that looks right."""
    answer = api.get("/api/2021/quarters?departement=1")
    assert (answer.status, answer.json["errors"][0]["parameter"]) == (400, "departement")


@pytest.mark.parametrize("metric", ["quarters", "departments"])
@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
def test_what_the_caller_has_already_is_not_sent_again(parents: Api, metric: str, accept: str) -> None:
    """304 as long as nothing changed, and another ETag afterwards; each form has its own."""
    hire(parents, (1, "2021-02-03T00:00:00Z", 1, 1))
    path = f"/api/2021/{metric}"
    first = parents.get(path, accept=accept)
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for known in (etag, f'"x", W/{etag}', "*"):
        again = parents.get(path, accept=accept, if_none_match=known)
        assert (again.status, again.text, again.headers["etag"]) == (304, "", etag)
    other = parents.get(path, accept="text/csv" if accept != "text/csv" else "application/json", if_none_match=etag)
    assert other.status == 200
    parents.query(FOLD)
    assert parents.get(path, accept=accept, if_none_match=etag).status == 304
    hire(parents, (2, "2021-02-03T00:00:00Z", 1, 1))
    assert parents.get(path, accept=accept, if_none_match=etag).status == 200


def test_an_answer_never_counts_a_hire_twice_or_not_at_all(parents: Api) -> None:
    """Transactions of four hires, folds and reads at once: every read sees whole transactions, and never fewer."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run(work: Callable[[Any], None]) -> None:
        with closing(parents.connect("api")) as conn:
            try:
                while not stop.is_set():
                    work(conn)
            except BaseException as error:  # noqa: BLE001  # told by the test itself
                failures.append(error)

    numbers = iter(range(1, 10**9))
    one_at_a_time = threading.Lock()

    def write(conn: Any) -> None:
        with conn, conn.cursor() as cursor:
            for month in (1, 4, 7, 10):
                with one_at_a_time:
                    number = next(numbers)
                cursor.execute(HIRE, (number, f"2021-{month:02}-01T00:00:00Z", 1, 1))

    def take_in(conn: Any) -> None:
        with conn:
            fold(conn)

    threads = [threading.Thread(target=run, args=(work,)) for work in (write, write, take_in)]
    for thread in threads:
        thread.start()
    try:
        seen = 0
        for _ in range(150):
            ((q1, q2, q3, q4),) = [
                (row["Q1"], row["Q2"], row["Q3"], row["Q4"]) for row in parents.get("/api/2021/quarters").data
            ] or [(0, 0, 0, 0)]
            assert q1 == q2 == q3 == q4 >= seen
            seen = q1
            total = sum(row["hired"] for row in parents.get("/api/2021/departments").data)
            assert total % 4 == 0
            assert total >= 4 * seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert seen > 0
    agrees(parents, 2021)


def test_writers_of_one_cell_never_wait_for_each_other(parents: Api) -> None:
    """Eight transactions have all written the same cell before the first of them ends, with folds in between."""
    with ExitStack() as stack:
        writers = [stack.enter_context(closing(parents.connect("api"))) for _ in range(8)]
        for n, conn in enumerate(writers):
            with conn.cursor() as cursor:
                cursor.execute("set lock_timeout = '5s'")  # one that waited would wait for ever
                cursor.execute(HIRE, (n, "2021-02-03T00:00:00Z", 1, 1))
        for n, conn in enumerate(writers):
            assert parents.query(FOLD) == [(min(n, 1),)]
            conn.commit()
            agrees(parents, 2021)
    assert parents.get("/api/2021/quarters").data[0]["Q1"] == 8


def test_eight_small_writers_at_once_neither_queue_nor_miscount(parents: Api) -> None:
    """Insert, move and delete in one cell by eight threads, with folds among them: no lock waited for, no row lost."""
    waited: list[str] = []
    failures: list[BaseException] = []

    def write(first: int) -> None:
        try:
            with closing(parents.connect("api")) as conn, conn.cursor() as cursor:
                conn.autocommit = True
                cursor.execute("set lock_timeout = '2s'")
                for n in range(first, first + 40):
                    cursor.execute(HIRE, (n, "2021-02-03T00:00:00Z", 1, 1))
                    if n % 3 == 0:
                        move = "update hired_employees.hired_employees set department_id = 2 where id = %s"
                        cursor.execute(move, (n,))
                    if n % 5 == 0:
                        cursor.execute("delete from hired_employees.hired_employees where id = %s", (n,))
                    if n % 10 == 0:
                        cursor.execute(FOLD)
        except psycopg2.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(1000 * n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    with closing(parents.connect("superuser")) as watcher, watcher.cursor() as cursor:
        watcher.autocommit = True
        while any(thread.is_alive() for thread in threads):
            cursor.execute(
                "select locktype from pg_locks where not granted and locktype in ('tuple', 'transactionid', 'advisory')"
            )
            waited += [locktype for (locktype,) in cursor.fetchall()]
    for thread in threads:
        thread.join()
    assert (failures, waited) == ([], [])
    agrees(parents, 2021)
    parents.query(FOLD)
    assert parents.get("/api/metrics/verify").json == {"data": [], "equal": True, "more": False}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(1, 40), st.sampled_from(EDGES), st.integers(1, 3), st.integers(1, 2)),
        st.tuples(st.just("upsert"), st.integers(1, 40), st.sampled_from(EDGES), st.integers(1, 3), st.integers(1, 2)),
        st.tuples(st.just("move"), st.integers(1, 40), st.integers(1, 3)),
        st.tuples(st.just("postpone"), st.integers(1, 40), st.sampled_from(EDGES)),
        st.tuples(st.just("delete"), st.integers(1, 40)),
        st.tuples(st.just("rename"), st.integers(1, 3), st.sampled_from(["a", "B", "é", ""])),
        st.tuples(st.just("truncate")),
        st.tuples(st.just("fold")),
        st.tuples(st.just("rebuild")),
    ),
    max_size=25,
)
STATEMENTS = {
    "insert": HIRE + " on conflict do nothing",
    "upsert": HIRE + " on conflict (id) do update set hired_date = excluded.hired_date,"
    " department_id = excluded.department_id, job_id = excluded.job_id",
    "move": "update hired_employees.hired_employees e set department_id = v.d from (values (%s, %s)) v (i, d)"
    " where e.id <= v.i",
    "postpone": "update hired_employees.hired_employees e set hired_date = v.at::timestamptz"
    " from (values (%s, %s)) v (i, at) where e.id >= v.i",
    "delete": "delete from hired_employees.hired_employees where id %% 7 = %s %% 7",
    "rename": "update hired_employees.departments d set departments = v.n from (values (%s, %s)) v (i, n)"
    " where d.id = v.i",
    "truncate": "truncate hired_employees.hired_employees",
    "fold": FOLD,
    "rebuild": "select metrics.rebuild()",
}


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_was_written_the_metrics_equal_a_recount(parents: Api, steps: list[tuple[Any, ...]]) -> None:
    """Any sequence of statements, folds and rebuilds."""
    with closing(parents.connect("owner")) as conn, conn.cursor() as cursor:
        conn.autocommit = True
        cursor.execute("truncate hired_employees.hired_employees")
        for name, *values in steps:
            cursor.execute(STATEMENTS[name], values)
        agrees(parents, 1, 2020, 2021, 2022, 9999)


def test_an_answer_does_not_read_the_employees(parents: Api) -> None:
    """Neither metric touches their table: its cost cannot follow their number. The roll-up is read by index."""
    hire(parents, *((n, "2021-02-03T00:00:00Z", 1, 1) for n in range(1, 30)))
    parents.query(
        "insert into metrics.hires select y, d, j, 1, 1, 1, 1 from generate_series(1000, 1400) y,"
        " generate_series(1, 3) d, generate_series(1, 2) j"
    )
    parents.query("analyze metrics.hires")
    with closing(parents.connect("owner")) as conn, conn.cursor() as cursor:
        cursor.execute("select pg_stat_force_next_flush()")
        cursor.execute(SCANS)
        before = cursor.fetchone()
        conn.commit()
        parents.get("/api/1200/quarters")
        parents.get("/api/1200/departments")
        parents.services.database.close()  # its sessions tell their counts when they end
        cursor.execute(SCANS)
        after = _until(conn, cursor, before)
    assert after[0] == before[0]
    assert (after[1] - before[1], after[2] - before[2]) == (0, 2)


SCANS = """
    select (select seq_scan + idx_scan from pg_stat_user_tables where relname = 'hired_employees'),
           (select seq_scan from pg_stat_user_tables where schemaname = 'metrics' and relname = 'hires'),
           (select idx_scan from pg_stat_user_tables where schemaname = 'metrics' and relname = 'hires')
"""


def _until(conn: Any, cursor: Any, before: tuple[int, ...]) -> tuple[int, ...]:
    """The counts once they have moved; statistics come a moment after their session's end."""
    deadline = datetime.now(UTC).timestamp() + 10
    while datetime.now(UTC).timestamp() < deadline:
        conn.commit()
        cursor.execute("select pg_stat_clear_snapshot()")
        cursor.execute(SCANS)
        found: tuple[int, ...] = cursor.fetchone()
        if found[1:] != before[1:]:
            return found
    raise AssertionError("the statistics never moved")


def test_a_roll_up_that_is_wrong_is_found_and_mended(parents: Api) -> None:
    """Verify lists the cells that differ, rebuild counts anew."""
    hire(parents, (1, "2021-02-03T00:00:00Z", 1, 1), (2, "2021-08-03T00:00:00Z", 2, 1))
    parents.query("insert into metrics.hires_deltas values (2021, 1, 1, 1, 5)")
    answer = parents.get("/api/metrics/verify").json
    assert (answer["equal"], answer["more"]) == (False, False)
    assert answer["data"] == [
        {"year": 2021, "quarter": 1, "department_id": 1, "job_id": 1, "rolled_up": 6, "counted": 1}
    ]
    rebuilt = parents.post("/api/metrics/rebuild", None)
    assert (rebuilt.status, rebuilt.data) == (200, {"cells": 2})
    assert parents.get("/api/metrics/verify").json["equal"]
    agrees(parents, 2021)


def test_many_wrong_cells_are_said_to_be_more_than_are_listed(parents: Api) -> None:
    parents.query("insert into metrics.hires_deltas select y, 1, 1, 1, 1 from generate_series(1, 101) y")
    answer = parents.get("/api/metrics/verify").json
    assert (len(answer["data"]), answer["more"], answer["equal"]) == (100, True, False)


def test_a_rebuild_gives_way_to_a_writer_at_work(parents: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with Retry-After when it would have to wait long, and nothing is changed."""
    monkeypatch.setattr("functions.api.metrics.LOCK_WAIT_S", 0.05)
    with closing(parents.connect("api")) as conn, conn.cursor() as cursor:
        cursor.execute(HIRE, (1, "2021-02-03T00:00:00Z", 1, 1))
        answer = parents.post("/api/metrics/rebuild", None)
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "busy", "5")
        conn.commit()
    agrees(parents, 2021)


def test_a_rebuild_beside_writers_is_right(parents: Api) -> None:
    """Writers wait for it, none is lost."""
    stop = threading.Event()

    def write() -> None:
        rng = random.Random(1)
        with closing(parents.connect("api")) as conn, conn.cursor() as cursor:
            conn.autocommit = True
            for n in range(1, 10**6):
                cursor.execute(HIRE, (n, rng.choice(EDGES), rng.randint(1, 3), rng.randint(1, 2)))
                if stop.is_set():
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(10):
            assert parents.post("/api/metrics/rebuild", None).status == 200
            assert parents.get("/api/metrics/verify").json["equal"]
    finally:
        stop.set()
        thread.join()
    agrees(parents, 2021, 2022)
