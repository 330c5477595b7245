"""Events: whatever form the platform delivers, one and the same event comes out, or a refusal that says why."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from shared import events
from shared.errors import EventRefused, ServiceUnavailable, SettingsError
from shared.events import Event, ObjectFinalized
from shared.settings import load

NAME = "in/hired employees ß.csv"
RESOURCE = {"kind": "storage#object", "bucket": "csv-uploads", "name": NAME, "generation": "1764000000000001"}
SOURCE = "//storage.googleapis.com/projects/_/buckets/csv-uploads"
CE = {"id": "e-1", "source": SOURCE, "type": events.OBJECT_FINALIZED, "specversion": "1.0", "bucket": "csv-uploads"}
NOTIFICATION = {
    "eventType": "OBJECT_FINALIZE",
    "bucketId": "csv-uploads",
    "objectId": NAME,
    "objectGeneration": "1764000000000001",
    "payloadFormat": "JSON_API_V1",
}
JSON = {"content-type": "application/json"}


def b64(document):
    return base64.b64encode(json.dumps(document).encode()).decode()


def ce_headers(**more):
    return {f"ce-{name}": value for name, value in CE.items()} | JSON | more


def pubsub(attributes, document):
    message = {
        "attributes": attributes,
        "data": b64(document),
        "messageId": "e-1",
        "publishTime": "2026-11-24T00:00:00Z",
    }
    return {"message": message, "subscription": "projects/p/subscriptions/s"}


FORMS = {
    "binary": (ce_headers(), RESOURCE),
    "binary, names in other case": ({name.title(): value for name, value in ce_headers().items()}, RESOURCE),
    "binary, trailing blanks": (ce_headers(**{"ce-subject": "objects/x ", "ce-type": CE["type"] + " "}), RESOURCE),
    "binary by Knative": (ce_headers(**{"ce-knativearrivaltime": "2026-11-24T00:00:00Z", "prefer": "reply"}), RESOURCE),
    "structured": ({"content-type": "application/cloudevents+json; charset=utf-8"}, CE | {"data": RESOURCE}),
    "structured, base64": ({"content-type": "application/cloudevents+json"}, CE | {"data_base64": b64(RESOURCE)}),
    "structured under application/json": (JSON, CE | {"data": RESOURCE}),
    "batch of one": ({"content-type": "application/cloudevents-batch+json"}, [CE | {"data": RESOURCE}]),
    "notification, wrapped": (JSON, pubsub(NOTIFICATION, RESOURCE)),
    "notification, unwrapped": (
        {name: value.encode().decode("latin-1") for name, value in NOTIFICATION.items()}
        | {"x-goog-pubsub-message-id": "e-1"},
        RESOURCE,
    ),
    "CloudEvent in attributes of a message": (JSON, pubsub({f"ce-{k}": v for k, v in CE.items()}, RESOURCE)),
    "CloudEvent in data of a message": (JSON, pubsub({}, CE | {"data": RESOURCE})),
    "Pub/Sub message published": (
        {"ce-id": "other", "ce-source": "//pubsub.googleapis.com/x", "ce-type": events.PUBSUB_PUBLISHED},
        pubsub(NOTIFICATION, RESOURCE),
    ),
    "first generation": (
        JSON,
        {
            "context": {"eventId": "e-1", "eventType": "google.storage.object.finalize", "resource": {"name": "x"}},
            "data": RESOURCE,
        },
    ),
    "first generation, flat": (
        JSON,
        {"eventId": "e-1", "eventType": "google.storage.object.finalize", "resource": "x", "data": RESOURCE},
    ),
}


@pytest.mark.parametrize(("headers", "document"), FORMS.values(), ids=FORMS)
def test_every_form_of_delivery_yields_the_same_object(headers, document):
    """However a finalized object is announced, bucket, name, generation, event id and source are the same."""
    event = events.parse(headers, json.dumps(document).encode())
    assert ObjectFinalized.of(event) == ObjectFinalized(
        bucket="csv-uploads", name=NAME, generation="1764000000000001", event_id="e-1", event_source=SOURCE
    )
    assert event.attributes["bucket"] == "csv-uploads"


def test_a_notification_without_payload_keeps_a_trailing_blank_of_the_name():
    """With payloadFormat NONE the name comes from the attribute, exactly."""
    message = {"attributes": NOTIFICATION | {"objectId": "a .csv "}, "messageId": "1"}
    event = events.parse({}, json.dumps({"message": message}).encode())
    assert ObjectFinalized.of(event).name == "a .csv "


def test_a_deletion_is_parsed_but_is_no_finalized_object():
    """Another storage event is an event, and is not mistaken for an upload."""
    event = events.parse({}, json.dumps(pubsub(NOTIFICATION | {"eventType": "OBJECT_DELETE"}, RESOURCE)).encode())
    assert event.type == "google.cloud.storage.object.v1.deleted"
    with pytest.raises(EventRefused, match=r"v1\.deleted"):
        ObjectFinalized.of(event)


def test_a_number_as_generation_is_taken_and_an_absent_one_is_none():
    """Some senders write the generation as a number; some have none."""
    event = events.make(events.OBJECT_FINALIZED, {"bucket": "b", "name": "n", "generation": 7})
    assert ObjectFinalized.of(event).generation == "7"
    assert ObjectFinalized.of(replace(event, data={"bucket": "b", "name": "n"})).generation is None


@pytest.mark.parametrize("form", ["knative", "scheduler"])
def test_a_scheduled_call_becomes_the_event_that_it_names(form):
    """Neither clock can choose an event's type, so that the type travels in the body."""
    body = json.dumps({"type": events.SWEEP, "data": {"a": 1}}).encode()
    headers = {
        "knative": {"ce-id": "j@t", "ce-source": "/apis/v1/x", "ce-type": events.KNATIVE_PING, "ce-specversion": "1.0"},
        "scheduler": {"X-CloudScheduler-JobName": "j", "X-CloudScheduler-ScheduleTime": "t"},
    }[form]
    event = events.parse(headers, body)
    assert (event.id, event.type, event.data) == ("j@t", events.SWEEP, {"a": 1})


STRUCTURED = b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {}, %s}'
REFUSED = {
    "nothing": ({}, b"", "not JSON"),
    "no JSON": (JSON, b"id,name\n", "not JSON"),
    "an array": (JSON, b"[1]", "must be a JSON object, found list"),
    "nothing known": (JSON, b'{"hello": 1}', "hello"),
    "a type that is no text": (JSON, b'{"type": ["dev.rowdock.sweep.v1"]}', "no event"),
    "a scheduled type that is no text": (
        {"ce-id": "1", "ce-source": "s", "ce-type": events.KNATIVE_PING},
        b'{"type": {}}',
        "must carry a type",
    ),
    "deep": (JSON, b"[" * 100_000, "not JSON"),
    "no id": (ce_headers(**{"ce-id": " "}), b"{}", "lacks id"),
    **{
        f"an attribute that is {what}": ({"content-type": events.STRUCTURED_MEDIA_TYPE}, STRUCTURED % attribute, said)
        for what, attribute, said in (
            ("no text", b'"id": 7', "id must be text, found int"),
            ("an object", b'"type": {}', "type must be text, found dict"),
            ("a list", b'"colour": ["blue"]', "colour must be text, found list"),
        )
    },
    "batch of two": ({"content-type": events.BATCH_MEDIA_TYPE}, b"[{}, {}]", "found 2"),
    "batch that is none": ({"content-type": events.BATCH_MEDIA_TYPE}, b"{}", "no list"),
    "data is text": (ce_headers(), b'"text"', "must be a JSON object, found str"),
    "no base64": (JSON, b'{"message": {"data": "?!"}}', "message.data is not base64"),
    "no name": (JSON, b'{"kind": "storage#object", "bucket": "b"}', "lacks 'name'"),
    "ping of something else": (
        {"ce-id": "1", "ce-source": "s", "ce-type": events.KNATIVE_PING},
        b'{"type": "dev.other"}',
        "dev.other",
    ),
}


@pytest.mark.parametrize(("headers", "body", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_event_is_refused_with_what_is_missing(headers, body, said):
    """A refusal names the part that is wrong."""
    with pytest.raises(EventRefused, match=said):
        events.parse(headers, body)


@pytest.mark.parametrize("text", ["a b", "50%", "ß", 'say "x"', "100%25", "plain/objects?x=1&y"])
def test_what_binary_writes_parse_reads(text):
    """Subject and extensions survive the header's encoding, per cent signs and all."""
    event = Event("i", "//rowdock", events.LOAD, text, "2026-11-24T00:00:00Z", {"name": text}, {"bucket": text})
    assert events.parse(*events.binary(event)) == event


def test_an_object_has_one_event_id_for_each_generation():
    """The id is a function of bucket, name and generation, and of where one ends and the next begins."""
    ids = {events.object_event_id(*key) for key in [("b", "n", "1"), ("b", "n", "2"), ("bn", "", "1"), ("b", "n1", "")]}
    assert len(ids) == 4
    assert events.object_event_id("b", "n", "1") in ids


@pytest.fixture
def settings():
    return load({})


def test_sending_posts_a_binary_cloudevent(settings, http_server):
    """What a receiver gets parses to the event that was sent."""
    event = events.make(events.REDRIVE, {"load_id": 3, "records": None})
    events.send(event, replace(settings, events_url=http_server.url("/events")))
    call = http_server.calls[-1]
    assert (call.path, events.parse(call.headers, call.body)) == ("/events", event)


def test_sending_carries_an_identity_token_for_the_receiver(settings, http_server):
    """The token is asked of the giver for the receiver's origin and sent as bearer."""
    http_server.answer("/token", 200, b"a.b.c")
    receiver = replace(settings, events_url=http_server.url("/events"), identity_token_url=http_server.url("/token"))
    events.send(events.make(events.SWEEP, {}), receiver)
    asked, sent = http_server.calls
    assert asked.path == f"/token?audience=http%3A%2F%2F127.0.0.1%3A{http_server.port}&format=full"
    assert asked.headers["metadata-flavor"] == "Google"
    assert sent.headers["authorization"] == "Bearer a.b.c"


@pytest.mark.parametrize("status", [302, 404, 429, 500])
def test_an_event_that_was_not_accepted_is_transient(settings, http_server, status):
    """Anything but 2xx may pass next time; the message carries the status."""
    http_server.answer("/events", status)
    with pytest.raises(ServiceUnavailable, match=str(status)):
        events.send(events.make(events.SWEEP, {}), replace(settings, events_url=http_server.url("/events")))


def test_a_receiver_that_is_not_there_is_transient(settings, free_port):
    """Nobody listens: the host is named, the path is not."""
    with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1") as refused:
        events.send(events.make(events.SWEEP, {}), replace(settings, events_url=f"http://127.0.0.1:{free_port}/secret"))
    assert "secret" not in str(refused.value)


def test_without_a_receiver_the_setting_is_named(settings):
    """Nothing to send to is a matter of settings, not of luck."""
    with pytest.raises(SettingsError, match="EVENTS_URL"):
        events.send(events.make(events.SWEEP, {}), settings)
