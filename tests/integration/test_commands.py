"""The operator's command says what is wrong and what to do, in one line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from local_emulator import stores
from local_emulator.stores import StoreServer
from shared import cli


@pytest.fixture
def rowdock(database: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command as an operator of the test's database; returns status, output and complaint."""

    def run(*words: str, url: str = database.owner_url) -> tuple[int, str, str]:
        status = cli.main(["--database-url", url, *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_an_empty_list_says_of_what_there_is_none(rowdock: Any) -> None:
    """A slip in a filter is seen: it is not taken for good news."""
    assert rowdock("rejects", "ls") == (0, "no open rejects\n", "")
    assert rowdock("rejects", "ls", "--reason", "no_zone", "--load", "7")[1] == (
        "no open rejects of load 7, reason no_zone\n"
    )
    assert rowdock("loads") == (0, "no load yet\n", "")
    assert rowdock("loads", "--object", "a.csv", "--state", "refused")[1] == "no load of object a.csv, state refused\n"


@pytest.mark.parametrize("command", [["loads"], ["rejects", "ls"], ["rejects", "ls", "--state", "pending"]])
def test_a_table_that_nobody_knows_is_refused(rowdock: Any, command: list[str]) -> None:
    """It may be the API's name of it, or a slip: the dictionary's names are told."""
    status, out, complaint = rowdock(*command, "--table", "employees")
    assert (status, out) == (1, "")
    assert complaint == (
        "rowdock: there is no table 'employees' in the dictionary; it has departments, jobs, hired_employees\n"
    )


def test_a_table_that_left_the_dictionary_still_has_its_history(rowdock: Any, database: Any) -> None:
    """What was loaded stays to be seen."""
    database.query(
        "insert into ingest_status.ingest_status (kind, table_name, file_name, state, started_at)"
        " values ('file', 'trainings', 'trainings.csv', 'loaded', now())"
    )
    assert "trainings.csv" in rowdock("loads", "--table", "trainings")[1]


def test_an_export_without_open_rejects_asks_nobody_to_mend(rowdock: Any, database: Any, tmp_path: Path) -> None:
    """A load whose rejects are all closed: the file has its header alone, and the command says so."""
    database.query(
        "insert into ingest_status.ingest_status (kind, table_name, state, started_at, columns, delimiter)"
        " values ('file', 'jobs', 'loaded', now(), '{id,job}', ',')"
    )
    out = tmp_path / "rejects.csv"
    assert rowdock("rejects", "export", "1", "--out", str(out)) == (
        0,
        f"load 1 has no open rejects: {out} holds a header alone\n",
        "",
    )
    assert out.read_text() == "id,job,_reject_id,_reasons,_line,_raw\n"


@pytest.mark.parametrize("command", [["loads"], ["keys"], ["rollup", "verify"]])
def test_a_database_that_was_never_migrated_is_said_to_be_so(
    rowdock: Any, empty_database: Any, command: list[str]
) -> None:
    """The code of PostgreSQL's refusal alone tells nobody what to do."""
    status, out, complaint = rowdock(*command, url=empty_database.owner_url)
    assert (status, out, complaint.count("\n")) == (1, "", 1)
    assert complaint.endswith("; rowdock check says what the database lacks\n")


def test_a_role_without_the_right_is_told_so(rowdock: Any, database: Any) -> None:
    """Nothing is missing in the database then."""
    complaint = rowdock("rollup", "rebuild", url=database.url_for("backup"))[2]
    assert complaint == "rowdock: PostgreSQL answered SQLSTATE 42501; connect as a role that may do this\n"


def test_a_database_that_is_not_there_is_named_with_the_reason(rowdock: Any, database: Any) -> None:
    """Host, port and why, as libpq tells them; never a password, whole or in part."""
    status, _, complaint = rowdock("loads", url="postgresql://someone:secret@127.0.0.1:1/nowhere")
    assert (status, complaint.count("\n")) == (1, 1)
    assert 'connection to server at "127.0.0.1", port 1 failed: Connection refused' in complaint
    assert "secret" not in complaint
    host = database.owner_url.rpartition("@")[2]
    assert "password authentication failed" in rowdock("loads", url=f"postgresql://rowdock:wrong@{host}")[2]
    for url in ("postgresql://someone:se/cret@127.0.0.1/x", "postgresql://someone:p@cret@127.0.0.1/x"):
        status, _, complaint = rowdock("loads", url=url)
        assert (status, complaint.count("\n"), "cret" in complaint) == (1, 1, False)


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    server = stores.moto(tmp_path_factory.mktemp("moto"), ["uploads"])
    yield server
    server.stop()


@pytest.fixture
def deployment(moto: StoreServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A store, and what takes events; gives the types of those that came."""
    came: list[str] = []

    class Broker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.headers["ce-type"])
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Broker) as broker:
        threading.Thread(target=broker.serve_forever, daemon=True).start()
        monkeypatch.setenv("STORAGE_URL", moto.url)
        monkeypatch.setenv("UPLOAD_BUCKET", "uploads")
        monkeypatch.setenv("EVENTS_URL", f"http://127.0.0.1:{broker.server_port}/")
        yield came
        broker.shutdown()


def test_an_object_that_is_not_there_is_not_asked_for(rowdock: Any, moto: StoreServer, deployment: list[str]) -> None:
    """History would never tell of it: the command does, and sends nothing."""
    status, out, complaint = rowdock("load", "jbos.csv")
    assert (status, out, deployment) == (1, "", [])
    assert complaint.startswith("rowdock: s3://uploads/jbos.csv")
    stores.s3_client(moto).put_object(Bucket="uploads", Key="jobs.csv", Body=b"1,Baker\n")
    status, out, complaint = rowdock("load", "jobs.csv")
    assert (status, out, complaint) == (0, "asked for; rowdock loads --object jobs.csv shows what came of it\n", "")
    assert deployment == ["dev.rowdock.load.v1"]


def test_a_load_is_asked_for_from_where_the_bucket_cannot_be_seen(
    rowdock: Any, deployment: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator may have no right to the bucket, which the function has; that nobody looked is said."""
    monkeypatch.setenv("STORAGE_URL", "s3+http://a:b@127.0.0.1:1")
    status, out, complaint = rowdock("load", "jobs.csv")
    assert (status, out[:9], deployment) == (0, "asked for", ["dev.rowdock.load.v1"])
    assert complaint.startswith("rowdock: whether the bucket has it cannot be seen from here: ")
