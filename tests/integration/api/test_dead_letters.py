"""Dead letters: kept once, whatever form they come in; taken from the platform alone; replayed by an admin."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_emulator.issuer import Issuer
from shared import events, identity
from shared.errors import ServiceUnavailable
from shared.events import Event
from tests.integration.api.conftest import Api

SOURCE = "//storage.googleapis.com/projects/_/buckets/csv-uploads"
RESOURCE = {"bucket": "csv-uploads", "name": "in/employees ñ.csv", "generation": "17", "kind": "storage#object"}
FINALIZED = Event("e-1", SOURCE, events.OBJECT_FINALIZED, "objects/in/employees ñ.csv", data=RESOURCE)
KEPT = "select event_id, event_source, event_type, subject, data->>'name' from ingest_status.dead_letters order by id"
TRIGGER = "trigger@p.iam.gserviceaccount.com"
AUDIENCE = "https://api.test"


def pubsub(document: Any, **attributes: str) -> bytes:
    data = base64.b64encode(json.dumps(document).encode()).decode()
    return json.dumps({"message": {"data": data, "messageId": "m-1", "attributes": attributes}}).encode()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """Under the emulator's setting, in which nothing is asked of a caller on this machine."""
    return make_api(CALLER_AUTH="off")


def post(api: Api, event: Event, **headers: str) -> int:
    binary, body = events.binary(event)
    return api.post(
        "/dead-letters", body, **{name.replace("-", "_"): text for name, text in binary.items()}, **headers
    ).status


def test_a_dead_letter_is_kept_once(api: Api) -> None:
    """204 also for the same one again; another source's event of the same id is another."""
    for _ in range(3):
        assert post(api, FINALIZED) == 204
    assert post(api, Event("e-1", "//rowdock", events.SWEEP)) == 204
    assert api.query(KEPT) == [
        ("e-1", SOURCE, events.OBJECT_FINALIZED, "objects/in/employees ñ.csv", "in/employees ñ.csv"),
        ("e-1", "//rowdock", events.SWEEP, None, None),
    ]


def test_every_form_that_the_platform_has_is_taken(api: Api) -> None:
    """CloudEvents structured, a Pub/Sub push around a notification, and what Knative says of the failure."""
    structured = {
        "specversion": "1.0",
        "id": "e-2",
        "source": SOURCE,
        "type": events.OBJECT_FINALIZED,
        "data": RESOURCE,
    }
    structured |= {"knativeerrorcode": "500", "knativeerrordest": "http://ingest"}
    notification = pubsub(RESOURCE, eventType="OBJECT_FINALIZE", bucketId="csv-uploads")
    assert api.post("/dead-letters", structured, content_type="application/cloudevents+json").status == 204
    assert api.post("/dead-letters", notification).status == 204
    assert [(row[0], row[2], row[4]) for row in api.query(KEPT)] == [
        ("e-2", events.OBJECT_FINALIZED, "in/employees ñ.csv"),
        ("m-1", events.OBJECT_FINALIZED, "in/employees ñ.csv"),
    ]
    assert api.get("/api/dead-letters").data[1]["attributes"] == {
        "knativeerrorcode": "500",
        "knativeerrordest": "http://ingest",
    }


NO_EVENTS: list[Any] = [
    b"", b"[]", b"{}", b"\xff", b"[" * 100_000, {"type": [events.SWEEP]}, {"message": 5},
    {"specversion": "1.0", "type": "x", "source": "y"},
    {"specversion": "1.0", "type": "x", "source": "y", "id": "a\0b"},
    {"specversion": "1.0", "type": "x", "source": "y\ud800", "id": "a"},
    {"specversion": "1.0", "type": "x", "source": "y", "id": "a" * 1025},
    {"specversion": "1.0", "type": "x", "source": "y", "id": "ñ" * 513},
    b'{"specversion": "1.0", "type": "x", "source": "y", "id": "a", "data": {"n": NaN}}',
    b'{"specversion": "1.0", "type": "x", "source": "y", "id": "a", "data": {"n": 1e999}}',
]  # fmt: skip


def test_what_cannot_be_kept_is_refused(api: Api) -> None:
    """400 with a reason, so that the platform does not go on with it."""
    for body in NO_EVENTS:
        answer = api.post("/dead-letters", body)
        assert (answer.status, answer.json["code"]) == (400, "event.refused"), body
    assert api.query(KEPT) == []


def test_an_event_that_is_too_long_to_be_ours_is_refused(api: Api) -> None:
    """A page of the list must fit into memory."""
    assert post(api, Event("e-1", "//rowdock", events.SWEEP, data={"x": "x" * (256 << 10)})) == 413
    assert post(api, Event("e-1", "//rowdock", events.SWEEP, data={"x": "x" * (255 << 10)})) == 204


def test_data_that_no_text_can_hold_is_kept_as_it_is(api: Api) -> None:
    """NUL, half a surrogate pair, a number of many digits, deep nesting; and the longest id and source."""
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    data = {"name": "a\0b", "half": "\ud800", "long": 10**4000, "deep": deep, "": "'%s"}
    event = {"specversion": "1.0", "type": "x", "source": "s" * 1024, "id": "i" * 1024, "data": data}
    assert api.post("/dead-letters", event).status == 204
    (kept,) = api.get("/api/dead-letters").data
    assert (kept["data"], kept["event_id"]) == (data, "i" * 1024)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "message", "data", "context", "specversion", "id", "source", "eventType", "eventId",
                         "kind", "bucket", "name", "attributes", "resource", "data_base64", "\0"]),
        inner | st.sampled_from([events.SWEEP, events.PUBSUB_PUBLISHED, events.KNATIVE_PING, "e30=", "storage#object"]),
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=JSONS, form=st.sampled_from(["application/json", "application/cloudevents+json"]))
def test_no_body_is_a_defect(api: Api, document: Any, form: str) -> None:
    """It is kept or refused."""
    answer = api.post("/dead-letters", json.dumps(document).encode(), content_type=form)
    assert answer.status in (204, 400), answer.text


# --- who may post them


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    """The emulator's issuer, whose keys are known without asking."""
    made = Issuer(tmp_path / "key.pem", "https://issuer.test")
    monkeypatch.setattr(identity, "_KEYS", identity._KeyCache())
    monkeypatch.setattr(identity.outbound, "exchange", lambda *_args, **_kw: (200, made.key_set()))
    return made


PLATFORM = {
    "CALLER_ISSUER": "https://issuer.test",
    "CALLER_JWKS_URL": "https://issuer.test/keys",
    "CALLER_AUDIENCE": AUDIENCE,
    "CALLER_IDENTITIES": TRIGGER,
}


@pytest.mark.parametrize("mode", ["oidc", "platform"])
def test_only_the_trigger_may_post_where_an_audience_is_set(
    make_api: Callable[..., Api], issuer: Issuer, mode: str
) -> None:
    """Its token is checked, also where the platform is trusted: it lets the API's own callers in too."""
    api = make_api(CALLER_AUTH=mode, **PLATFORM)
    assert post(api, FINALIZED) == 403
    assert post(api, FINALIZED, authorization="Bearer made.up.token") == 403
    assert post(api, FINALIZED, authorization=f"Bearer {issuer.token('other@p.test', AUDIENCE)}") == 403
    assert post(api, FINALIZED, authorization=f"Bearer {issuer.token(TRIGGER, 'https://ingest.test')}") == 403
    assert api.query(KEPT) == []
    assert post(api, FINALIZED, authorization=f"Bearer {issuer.token(TRIGGER, AUDIENCE)}") == 204
    assert len(api.query(KEPT)) == 1


def checked_by_the_platform(token: str) -> str:
    """What Cloud Run makes of a token that passed its IAM check."""
    return f"Bearer {token.rpartition('.')[0]}.{identity.STRIPPED_SIGNATURE}"


def test_without_an_audience_only_the_trigger_that_the_platform_checked_may_post(
    make_api: Callable[..., Api], issuer: Issuer
) -> None:
    """The platform lets the API's own callers in too; a token that it did not check proves nothing."""
    api = make_api(CALLER_AUTH="platform", CALLER_IDENTITIES=TRIGGER)
    token = issuer.token(TRIGGER, AUDIENCE)
    assert post(api, FINALIZED) == 403
    assert post(api, FINALIZED, authorization=checked_by_the_platform("made.up.token")) == 403
    assert post(api, FINALIZED, authorization=checked_by_the_platform(issuer.token("other@p.test", AUDIENCE))) == 403
    assert post(api, FINALIZED, authorization=f"Bearer {token}") == 403
    assert api.query(KEPT) == []
    assert post(api, FINALIZED, authorization=checked_by_the_platform(token)) == 204
    assert len(api.query(KEPT)) == 1


def test_where_nothing_says_who_the_trigger_is_nobody_may_post(
    make_api: Callable[..., Api], issuer: Issuer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The platform delivers again, and the log says what to set."""
    api = make_api(CALLER_AUTH="platform")
    assert post(api, FINALIZED, authorization=checked_by_the_platform(issuer.token(TRIGGER, AUDIENCE))) == 500
    line = json.loads(capsys.readouterr().out)
    assert line["severity"] == "ERROR"
    assert "set CALLER_IDENTITIES" in line["error_message"]


def test_where_an_audience_is_set_no_token_without_its_signature_counts(
    make_api: Callable[..., Api], issuer: Issuer
) -> None:
    """Anybody can write one, where the platform checks nothing."""
    api = make_api(CALLER_AUTH="platform", **PLATFORM)
    assert post(api, FINALIZED, authorization=checked_by_the_platform(issuer.token(TRIGGER, AUDIENCE))) == 403


def test_nothing_is_asked_on_this_machine_alone(api: Api) -> None:
    """Another site's page in a browser here is not this machine."""
    assert post(api, FINALIZED, host="evil.example") == 403


# --- the list and the replay


def test_dead_letters_come_the_newest_first_page_by_page(api: Api) -> None:
    for n in range(5):
        post(api, Event(f"e-{n}", "//rowdock", events.SWEEP))
    first = api.get("/api/dead-letters?page_size=3").json
    second = api.get(f"/api/dead-letters?page_size=3&page_token={first['next_page_token']}").json
    assert [row["event_id"] for row in first["data"] + second["data"]] == ["e-4", "e-3", "e-2", "e-1", "e-0"]
    assert second["next_page_token"] is None
    assert first["data"][0]["received_at"].endswith("Z")


def test_an_object_is_asked_to_be_loaded_again(api: Api) -> None:
    """Its announcement is the platform's: what is sent is our own request for that object and generation."""
    post(api, FINALIZED)
    answer = api.post("/api/dead-letters/1/replay", None)
    (sent,) = api.sent
    assert (answer.status, answer.data) == (202, {"id": 1, "event_id": sent.id, "event_type": events.LOAD})
    assert (sent.source, sent.type) == ("//rowdock", events.LOAD)
    assert sent.data == {"bucket": "csv-uploads", "name": "in/employees ñ.csv", "generation": "17"}


def test_an_event_of_ours_goes_as_it_was_under_a_new_id(api: Api) -> None:
    """So that it is a new dead letter when it is given up again."""
    post(api, Event("e-1", "//rowdock", events.REDRIVE, data={"load_id": 7, "records": [1]}))
    assert api.post("/api/dead-letters/1/replay", None).status == 202
    (sent,) = api.sent
    assert (sent.source, sent.type, sent.data) == ("//rowdock", events.REDRIVE, {"load_id": 7, "records": [1]})
    assert sent.id != "e-1"
    post(api, sent)
    assert len(api.query(KEPT)) == 2


def test_a_replayed_one_is_marked_and_can_be_replayed_again(api: Api) -> None:
    post(api, FINALIZED)
    assert api.post("/api/dead-letters/1/replay", None).status == 202
    assert api.get("/api/dead-letters").data == []
    for state in ("replayed", "all"):
        (row,) = api.get(f"/api/dead-letters?state={state}").data
        assert row["replayed_at"].endswith("Z")
    assert api.post("/api/dead-letters/1/replay", None).status == 202
    assert len(api.sent) == 2


def test_one_that_nobody_took_stays_open(api: Api) -> None:
    """503 with Retry-After."""

    def refuse(_event: Any) -> None:
        raise ServiceUnavailable("nobody is there")

    post(api, FINALIZED)
    object.__setattr__(api.services, "send", refuse)
    answer = api.post("/api/dead-letters/1/replay", None)
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert len(api.get("/api/dead-letters").data) == 1


def test_what_nothing_of_ours_takes_cannot_be_replayed(api: Api) -> None:
    """A stranger's type, or an announcement without the object's name."""
    post(api, Event("e-1", "//somewhere", "com.example.thing"))
    post(api, Event("e-2", SOURCE, events.OBJECT_FINALIZED, data={"bucket": "b"}))
    for number in (1, 2):
        answer = api.post(f"/api/dead-letters/{number}/replay", None)
        assert (answer.status, answer.json["code"]) == (409, "dead_letter.not_replayable")
    assert api.sent == []
    assert len(api.get("/api/dead-letters").data) == 2


def test_a_dead_letter_that_is_none_is_not_found(api: Api) -> None:
    for number in ("1", "0", "x", "99999999999999999999", "%00"):
        answer = api.post(f"/api/dead-letters/{number}/replay", None)
        assert (answer.status, answer.json["code"]) == (404, "dead_letter.not_found")


def test_no_word_of_a_stranger_reaches_the_log(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    post(api, Event("secret-1", "//secret", "secret.type", "secret", data={"secret": "secret"}))
    api.post("/dead-letters", {"specversion": "1.0", "type": "secret"})
    api.post("/api/dead-letters/1/replay", None)
    assert "secret" not in capsys.readouterr().out


def test_the_sweep_may_forget_them(api: Api, database: Any) -> None:
    """The ingest function's role has the right."""
    post(api, FINALIZED)
    database.query("delete from ingest_status.dead_letters where received_at < now()", role="ingest")
    assert api.query(KEPT) == []
