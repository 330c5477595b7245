"""An upload becomes the event that production would send, signed, delivered again until taken, never lost."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from itertools import pairwise

import pytest

from local_emulator.looking import ask
from shared import events, outbound, settings
from tests.e2e.emulator.project import temporary_project, wait_for

RFC3339_MS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
RFC3339_US = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


WRITE_LOST = """
import os
from shared import objectstore
objectstore.connect(os.environ["STORAGE_URL"]).put(os.environ["UPLOAD_BUCKET"], "lost.csv", b"1,lost")
"""


def delivered(emulator, name, times=1):
    return wait_for(lambda: len(found := emulator.calls_about(name)) >= times and found, f"{times} calls about {name}")


def test_the_event_of_an_upload_equals_productions_field_for_field(emulator):
    """Attributes, fields and types are those that Eventarc delivers for Cloud Storage."""
    info = emulator.put("in/año 1.csv", b"1,Adelaide,2021-01-01T00:00:00Z,1,1\n")
    call = delivered(emulator, "in/año 1.csv")[0]
    body, headers = json.loads(call["body"]), call["headers"]
    md5 = base64.b64encode(hashlib.md5(b"1,Adelaide,2021-01-01T00:00:00Z,1,1\n").digest()).decode()  # noqa: S324 - an ETag
    changing = {"timeCreated", "updated", "timeStorageClassUpdated"}
    assert {name: value for name, value in body.items() if name not in changing | {"crc32c"}} == {
        "kind": "storage#object",
        "id": f"csv-uploads/in/año 1.csv/{info.generation}",
        "selfLink": "https://www.googleapis.com/storage/v1/b/csv-uploads/o/in%2Fa%C3%B1o%201.csv",
        "name": "in/año 1.csv",
        "bucket": "csv-uploads",
        "generation": info.generation,
        "metageneration": "1",
        "contentType": "text/csv",
        "storageClass": "STANDARD",
        "size": "36",
        "md5Hash": md5,
        "mediaLink": "https://storage.googleapis.com/download/storage/v1/b/csv-uploads/o/in%2Fa%C3%B1o%201.csv"
        f"?generation={info.generation}&alt=media",
        "etag": info.etag,
    }
    assert all(re.fullmatch(RFC3339_MS, body[name]) for name in changing)
    assert {name: value for name, value in headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": events.object_event_id("csv-uploads", "in/año 1.csv", info.generation),
        "ce-type": "google.cloud.storage.object.v1.finalized",
        "ce-source": "//storage.googleapis.com/projects/_/buckets/csv-uploads",
        "ce-subject": "objects/in/a%C3%B1o%201.csv",
        "ce-time": headers["ce-time"],
        "ce-bucket": "csv-uploads",
    }
    assert re.fullmatch(RFC3339_US, headers["ce-time"])
    assert headers["content-type"] == "application/json"
    assert events.ObjectFinalized.of(events.parse(headers, call["body"].encode())).name == "in/año 1.csv"


def test_an_upload_that_nothing_announced_is_found_by_listing(emulator):
    """moto has no webhook: what is written behind the emulator's back is listed within its interval."""
    emulator.put("unannounced.csv")
    assert len(delivered(emulator, "unannounced.csv")) == 1


def test_an_overwrite_is_another_event_and_the_same_generation_is_not(emulator):
    """Each generation is announced once, however often it is seen."""
    first, second = emulator.put("twice.csv", b"1\n"), None
    delivered(emulator, "twice.csv")
    second = emulator.put("twice.csv", b"2\n")
    for _ in range(3):
        announced = {"bucket": "csv-uploads", "name": "twice.csv", "generation": second.generation}
        ask(emulator.running, "POST", "/_emulator/announce", announced)
    delivered(emulator, "twice.csv", times=2)
    emulator.put("after.csv")
    delivered(emulator, "after.csv")
    generations = [json.loads(call["body"])["generation"] for call in emulator.calls_about("twice.csv")]
    assert generations == [first.generation, second.generation]


def test_calls_are_signed_and_others_are_refused(emulator):
    """The function sees the trigger's identity; without a token, or with another's, it refuses."""
    emulator.put("signed.csv")
    assert delivered(emulator, "signed.csv")[0]["caller"] == "trigger@rowdock.emulator"
    url = f"{emulator.running.url}/functions/ingest/"
    before = len(emulator.calls)
    assert outbound.exchange("POST", url, body=b"{}")[0] == 403
    operator = emulator.running.environment["IDENTITY_TOKEN_URL"] + f"?audience={url[:-1]}"
    _, token = outbound.exchange("GET", operator, headers={"metadata-flavor": "Google"})
    headers = {"authorization": f"Bearer {token.decode()}"}
    status, why = outbound.exchange("POST", url, body=b"{}", headers=headers)
    assert (status, len(emulator.calls)) == (403, before)
    assert b"not one that may call" in why


def test_an_event_of_our_own_reaches_the_function(emulator):
    """``events.send`` with what ``exec`` sets is stored, and delivered to the trigger of its source."""
    sender = settings.load(emulator.running.environment)
    event = events.make(events.REDRIVE, {"load_id": 7, "records": None})
    events.send(event, sender)
    call = wait_for(lambda: [c for c in emulator.calls if c["headers"].get("ce-id") == event.id], "our event")[0]
    assert events.parse(call["headers"], call["body"].encode()) == event


@pytest.mark.parametrize("path", ["/_events", "/_events/minio", "/_events/seaweedfs", "/_emulator/announce"])
def test_a_stranger_cannot_put_events_in(emulator, path):
    """A page in a browser can post to loopback; without a token nothing is taken."""
    status, _ = outbound.exchange("POST", emulator.running.url + path, body=b'{"type": "dev.rowdock.sweep.v1"}')
    assert status in (401, 403)


def test_a_token_for_another_address_does_not_open_the_intake(emulator):
    """The audience counts: what was signed for a function cannot be replayed to the intake."""
    environment = dict(emulator.running.environment)
    giver = f"{environment['IDENTITY_TOKEN_URL']}?audience={emulator.running.url}/functions/ingest"
    _, token = outbound.exchange("GET", giver, headers={"metadata-flavor": "Google"})
    headers, body = events.binary(events.make(events.SWEEP, {}))
    headers["authorization"] = f"Bearer {token.decode()}"
    assert outbound.exchange("POST", environment["EVENTS_URL"], headers=headers, body=body)[0] == 401


def test_a_failing_delivery_is_tried_again_later_and_later_and_then_is_a_dead_letter(project):
    """Eight attempts, each pause twice the one before, 600 s (here 1.2 s) at most; a replay is then taken."""
    project.behave(status=500)
    project.up(time_scale="0.002")
    project.put("bad day.csv")
    dead = wait_for(lambda: project.deliveries(state="dead"), "the dead letter")[0]
    assert (dead["attempts"], dead["last_status"], len(project.calls)) == (8, 500, 8)
    shown = json.loads(project.call("events", "show", str(dead["id"])).stdout)
    starts = [datetime.fromisoformat(attempt["started_at"]).timestamp() for attempt in shown["tries"]]
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert all(pause >= min(0.019 * 2**number, 1.19) for number, pause in enumerate(pauses))
    assert shown["event"]["data"]["name"] == "bad day.csv"
    assert "given up after 8 attempts" in project.log
    listed = json.loads(project.call("dead-letters", "ls", "--json").stdout)
    assert [row["id"] for row in listed] == [dead["id"]]
    project.behave(status=204)
    assert project.call("dead-letters", "replay").returncode == 0
    wait_for(lambda: project.deliveries(state="done"), "the replayed delivery")
    assert len(project.calls) == 9
    assert json.loads(project.call("dead-letters", "ls", "--json").stdout) == []


def test_no_more_calls_at_a_time_than_deploy_yaml_allows(emulator):
    """Ten uploads at once, each instance one at a time: the rest waits in the queue, and none is lost."""
    limit = next(f["at_most"] for f in emulator.status()["functions"] if f["name"] == "ingest")
    hold = emulator.folder / "functions/hold"
    hold.touch()
    names = [f"crowd-{number}.csv" for number in range(limit + 4)]
    try:
        for name in names:
            emulator.put(name)
        wait_for(lambda: len(emulator.deliveries(state="pending")) == 4, "four that wait")
        assert len([c for c in emulator.calls if "crowd" in c["body"]]) == limit
    finally:
        hold.unlink()
    for name in names:
        delivered(emulator, name)
    wait_for(lambda: "pending" not in emulator.status()["deliveries"], "the end of the queue")


def test_a_schedule_can_be_run_now(emulator):
    """The call carries the type that the schedule names, in the form of a clock; the command waits for its answer."""
    ran = emulator.call("run", "sweep")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(r"sweep: 204 after [\d.]+ s\n(as the test says\n)?", ran.stdout)
    call = [c for c in emulator.calls if events.SWEEP in c["body"]][-1]
    event = events.parse(call["headers"], call["body"].encode())
    assert (event.type, event.id.partition("@")[0]) == (events.SWEEP, "sweep")
    unknown = emulator.call("run", "swoop")
    assert (unknown.returncode, "known: sweep, reconcile" in unknown.stderr) == (1, True)


def test_a_schedule_can_be_run_as_of_an_instant_again_and_again(emulator):
    """The same instant again is the same call, as a scheduler makes it that saw no answer."""
    for _ in range(2):
        assert emulator.call("run", "reconcile", "--at", "2026-11-25T03:15:00+01:00").returncode == 0
    calls = [c["headers"] for c in emulator.calls if c["headers"].get("ce-time") == "2026-11-25T02:15:00Z"]
    assert [call["ce-id"] for call in calls] == ["reconcile@2026-11-25T02:15:00Z"] * 2
    assert emulator.call("run", "reconcile", "--at", "2026-11-25T03:15").returncode == 2


def test_a_scheduled_call_that_fails_is_a_failure_of_the_command(emulator):
    """It says with which status; for programs all of it is one JSON object."""
    emulator.behave(status=409)
    ran = emulator.call("run", "sweep", "--json")
    outcome = json.loads(ran.stdout)
    assert (ran.returncode, outcome["ok"], outcome["status"], outcome["answer"]) == (1, False, 409, "as the test says")


@pytest.mark.store
@pytest.mark.parametrize("storage", ["minio", "seaweedfs"])
def test_a_webhook_makes_it_quick_and_a_listing_makes_it_sure(storage):
    """With listings an hour apart the store's own webhook brings the event; one it lost is found at the next start."""
    with temporary_project(storage) as project:
        process = project.up(listing="3600")
        project.put("in/announced ß.csv")
        delivered(project, "in/announced ß.csv")
        project.put("in/announced ß.csv", b"again")
        delivered(project, "in/announced ß.csv", times=2)
        wait_for(lambda: len(project.deliveries(state="done")) == 2, "the end of both")
        write = {**os.environ, **project.running.environment}
        process.send_signal(signal.SIGSTOP)  # nobody takes the webhook, and the store lives on
        subprocess.run([sys.executable, "-c", WRITE_LOST], env=write, check=True, timeout=30)
        process.kill()
        process.wait(10)
        project.up(listing="3600")
        assert len(delivered(project, "lost.csv")) == 1
        assert len(project.calls_about("in/announced ß.csv")) == 2


def test_settings_of_a_command_are_those_of_an_operator(emulator):
    """What ``exec`` sets is enough for shared.settings, and says that this is an emulator."""
    loaded = settings.load(emulator.running.environment)
    assert (loaded.environment, loaded.upload_bucket) == ("emulator", "csv-uploads")
    assert loaded.database_url.startswith("postgresql://rowdock:")
