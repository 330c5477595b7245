"""Idempotency-Key: a request that comes twice is done once and answered alike."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from functions.api import access
from functions.api.access import EVERYBODY, Principal
from tests.integration.api.conftest import ADA, Answer, Api
from tests.integration.api.test_batches import at_once, employee, employees_of, open_transaction, wait_for_lock

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"


def replayed(answer: Answer) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/api/employees", [ADA, {"id": 2}]),
        ("PUT", "/api/employees", [ADA]),
        ("DELETE", "/api/jobs", [1, 2]),
        ("POST", "/api/batch", {"jobs": [{"id": 7, "job": "Seven"}]}),
    ],
)
def test_a_request_that_comes_again_is_answered_again_and_not_done_again(
    parents: Api, method: str, target: str, body: Any
) -> None:
    """Status, body, Location and media type are those of the first time; the key may be quoted or not."""
    first = parents.call(method, target, body, idempotency_key=f'"{KEY}"')
    again = parents.call(method, target, body, idempotency_key=KEY)
    assert (replayed(first), replayed(again)) == (False, True)
    assert (again.status, again.text, again.response.content_type) == (
        first.status, first.text, first.response.content_type,
    )  # fmt: skip
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(parents.history()) == 1


def test_a_row_without_id_is_added_once(parents: Api) -> None:
    """What a client needs who saw no answer."""
    job = {"job": "New"}
    ids = [parents.post("/api/jobs", job, idempotency_key=KEY).data[0]["id"] for _ in range(3)]
    assert len(set(ids)) == 1
    assert parents.query("select count(*) from hired_employees.jobs") == [(3,)]


def test_a_batch_that_was_refused_whole_is_refused_again_alike(parents: Api) -> None:
    """All or nothing: its rejects are kept once."""
    bad = [ADA, ADA | {"id": 2, "job_id": 99}]
    first = parents.post("/api/employees", bad, idempotency_key=KEY, prefer="handling=strict")
    again = parents.post("/api/employees", bad, idempotency_key=KEY, prefer="handling=strict")
    assert (again.status, again.text, again.response.content_type) == (422, first.text, "application/problem+json")
    assert parents.query("select count(*) from ingest_status.rejects") == [(1,)]


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/api/employees", [employee(2)]),
        ("PUT", "/api/employees", [ADA]),
        ("POST", "/api/employees?validate_only=false", [ADA]),
        ("POST", "/api/batch", {"employees": [ADA]}),
    ],
)
def test_a_key_is_good_for_one_request_alone(parents: Api, method: str, target: str, body: Any) -> None:
    """Another method, path, query or body under the same key: 422, and nothing is done."""
    parents.post("/api/employees", [ADA], idempotency_key=KEY)
    answer = parents.call(method, target, body, idempotency_key=KEY)
    assert (answer.status, answer.json["code"], len(parents.history())) == (422, "idempotency.reused", 1)


def test_a_key_is_good_for_one_reading_of_its_request_alone(parents: Api) -> None:
    """All or nothing is another request than as much as will go in, and lines another than a list: 422."""
    bad = [ADA, ADA | {"id": 2, "job_id": 99}]
    parents.post("/api/employees", bad, idempotency_key=KEY, prefer="handling=strict")
    for headers in (
        {},
        {"prefer": "handling=lenient"},
        {"prefer": "handling=strict", "content_type": "application/x-ndjson"},
    ):
        answer = parents.post("/api/employees", bad, idempotency_key=KEY, **headers)
        assert (answer.status, answer.json["code"]) == (422, "idempotency.reused"), headers
    assert len(parents.history()) == 1


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), ([], 422), (b"x", 400)], ids=["no JSON", "no rows", "no JSON either"]
)
def test_a_request_that_was_never_taken_may_be_mended_under_its_key(parents: Api, body: Any, status: int) -> None:
    """Nothing was done, so nothing is kept."""
    assert parents.post("/api/employees", body, idempotency_key=KEY).status == status
    assert parents.post("/api/employees", [ADA], idempotency_key=KEY).status == 201


@pytest.mark.parametrize(
    "key", ["", '""', " ", "x" * 256, f'"{"x" * 256}"', "a b", '"a', 'a"', "é", '"a"b"', '"a\\b"', "\x01"]
)
def test_a_key_that_is_none_is_refused(parents: Api, key: str) -> None:
    """1 to 255 visible ASCII characters."""
    answer = parents.post("/api/employees", [ADA], idempotency_key=key)
    assert (answer.status, answer.json["errors"][0]["header"]) == (400, "Idempotency-Key")
    assert employees_of(parents) == 0


@pytest.mark.parametrize("key", ["x", "x" * 255, '"a\\"b"', '"a\\\\b"', "a,b;c"])
def test_a_key_may_be_any_visible_text(parents: Api, key: str) -> None:
    assert parents.post("/api/employees", [ADA], idempotency_key=key).status == 201
    assert replayed(parents.post("/api/employees", [ADA], idempotency_key=key))


def test_the_same_request_at_once_writes_once_and_has_one_answer(parents: Api) -> None:
    """From eight threads: who does not get the answer is told that it is under way, and gets it later."""
    rows = [{k: v for k, v in employee(n).items() if k != "id"} for n in range(100)]
    answers = at_once(*[lambda: parents.post("/api/employees", rows, idempotency_key=KEY)] * 8)
    assert {answer.status for answer in answers} <= {201, 409}
    told = [answer for answer in answers if answer.status == 201]
    assert len({answer.text for answer in told}) == 1
    assert sum(not replayed(answer) for answer in told) == 1
    for answer in answers:
        if answer.status == 409:
            assert (answer.json["code"], answer.headers["retry-after"]) == ("idempotency.in_flight", "1")
    assert parents.post("/api/employees", rows, idempotency_key=KEY).text == told[0].text
    assert (employees_of(parents), len(parents.history())) == (100, 1)


def test_a_request_under_way_is_not_begun_again(parents: Api) -> None:
    """While the first one waits for another writer, the second is told so; then it has the first one's answer."""
    with open_transaction(
        parents, "insert into hired_employees.hired_employees values (1, 'Other', now(), 1, 1)"
    ) as other:
        answers: list[Answer] = []
        thread = threading.Thread(
            target=lambda: answers.append(parents.post("/api/employees", [ADA], idempotency_key=KEY))
        )
        thread.start()
        wait_for_lock(parents)
        assert parents.post("/api/employees", [ADA], idempotency_key=KEY).json["code"] == "idempotency.in_flight"
        assert parents.post("/api/jobs", {"id": 9, "job": "x"}, idempotency_key="other").status == 201
        other.rollback()
        thread.join()
    assert answers[0].status == 201
    assert parents.post("/api/employees", [ADA], idempotency_key=KEY).text == answers[0].text


def test_a_batch_that_is_made_again_within_keeps_one_answer(parents: Api) -> None:
    """A row came meanwhile: the whole transaction is made again, under the same key."""
    with open_transaction(
        parents, "insert into hired_employees.hired_employees values (1, 'Other', now(), 1, 1)"
    ) as other:
        answers: list[Answer] = []
        rows = [ADA, employee(2)]
        thread = threading.Thread(
            target=lambda: answers.append(parents.post("/api/employees", rows, idempotency_key=KEY))
        )
        thread.start()
        wait_for_lock(parents)
        other.commit()
        thread.join()
    assert (answers[0].status, answers[0].json["errors"][0]["code"]) == (207, "id.exists")
    assert parents.post("/api/employees", rows, idempotency_key=KEY).text == answers[0].text
    assert len(parents.history()) == 1


def test_a_failure_of_the_database_is_not_an_answer_to_keep(parents: Api) -> None:
    """5xx, and a rule of the database's own: the same request may be sent again."""
    parents.query("alter table hired_employees.jobs add constraint own check (job <> 'x')")
    assert parents.post("/api/jobs", {"id": 9, "job": "x"}, idempotency_key=KEY).status == 422
    parents.query("alter table hired_employees.jobs drop constraint own")
    answer = parents.post("/api/jobs", {"id": 9, "job": "x"}, idempotency_key=KEY)
    assert (answer.status, replayed(answer)) == (201, False)


def test_answers_are_forgotten_after_a_day(parents: Api) -> None:
    """Another request may take the key then; old answers are removed in passing."""
    parents.post("/api/employees", [ADA], idempotency_key=KEY)
    parents.post("/api/employees", [ADA], idempotency_key="other")
    parents.query("update api_access.idempotency set created_at = now() - interval '25 hours'")
    answer = parents.post("/api/employees", [employee(2)], idempotency_key=KEY)
    assert (answer.status, replayed(answer)) == (201, False)
    assert parents.query("select key from api_access.idempotency") == [(KEY,)]


def test_an_old_answer_is_no_answer_even_before_it_is_removed(parents: Api) -> None:
    """More of them than are removed at once: the key's own is replaced."""
    parents.post("/api/employees", [ADA], idempotency_key=KEY)
    parents.query("update api_access.idempotency set created_at = now() - interval '25 hours'")
    parents.query(
        "insert into api_access.idempotency select principal, 'old' || n, fingerprint, status, headers, body,"
        " created_at - interval '1 hour' from api_access.idempotency, generate_series(1, 150) n"
    )
    for expected in (False, True):
        assert replayed(parents.post("/api/employees", [employee(2)], idempotency_key=KEY)) is expected


def test_callers_do_not_share_keys(parents: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients may choose the same key."""
    parents.post("/api/employees", [ADA], idempotency_key=KEY)
    monkeypatch.setattr(access, "EVERYBODY", Principal("another", EVERYBODY.scopes))
    answer = parents.post("/api/employees", [ADA], idempotency_key=KEY)
    assert (answer.status, replayed(answer)) == (201, False)


def test_a_trial_keeps_no_answer(parents: Api) -> None:
    """validate_only writes nothing, so that there is nothing to protect."""
    trial = "/api/employees?validate_only=true"
    for _ in range(2):
        answer = parents.post(trial, [ADA], idempotency_key=KEY)
        assert (answer.status, replayed(answer)) == (200, False)
