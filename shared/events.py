"""Events: one frozen dataclass, in whatever form the platform delivered it, and the one way to send our own.

Understood: CloudEvents binary, structured and a batch of one; Cloud Storage notifications by Pub/Sub push, wrapped or
not; CloudEvents inside Pub/Sub messages; the first generation's ``{"context": …, "data": …}``; scheduled calls of
Knative's PingSource and of Cloud Scheduler.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from shared.errors import EventRefused, ServiceUnavailable, SettingsError

if TYPE_CHECKING:
    from shared.settings import Settings

OBJECT_FINALIZED: Final = "google.cloud.storage.object.v1.finalized"
PENDING_DRAIN: Final = "dev.rowdock.pending.drain.v1"
SWEEP: Final = "dev.rowdock.sweep.v1"
RECONCILE: Final = "dev.rowdock.reconcile.v1"
REDRIVE: Final = "dev.rowdock.redrive.v1"
LOAD: Final = "dev.rowdock.load.v1"
OWN_TYPES: Final = frozenset({PENDING_DRAIN, SWEEP, RECONCILE, REDRIVE, LOAD})

PUBSUB_PUBLISHED = "google.cloud.pubsub.topic.v1.messagePublished"
KNATIVE_PING = "dev.knative.sources.ping"
TYPE_BY_NOTIFICATION = {  # attribute eventType of a Cloud Storage notification
    "OBJECT_FINALIZE": OBJECT_FINALIZED,
    "OBJECT_DELETE": "google.cloud.storage.object.v1.deleted",
    "OBJECT_ARCHIVE": "google.cloud.storage.object.v1.archived",
    "OBJECT_METADATA_UPDATE": "google.cloud.storage.object.v1.metadataUpdated",
}
TYPE_BY_LEGACY_TYPE = {  # context.eventType of a first-generation background function
    "google.storage.object.finalize": OBJECT_FINALIZED,
    "google.storage.object.delete": TYPE_BY_NOTIFICATION["OBJECT_DELETE"],
    "google.storage.object.archive": TYPE_BY_NOTIFICATION["OBJECT_ARCHIVE"],
    "google.storage.object.metadataUpdate": TYPE_BY_NOTIFICATION["OBJECT_METADATA_UPDATE"],
    "google.pubsub.topic.publish": PUBSUB_PUBLISHED,
    "providers/cloud.pubsub/eventTypes/topic.publish": PUBSUB_PUBLISHED,
}
STRUCTURED_MEDIA_TYPE = "application/cloudevents+json"
BATCH_MEDIA_TYPE = "application/cloudevents-batch+json"
REQUIRED = ("id", "source", "type")  # attributes of a CloudEvent
SEND_TIMEOUT_S = 10.0
UNKEPT = re.compile("[\0\ud800-\udfff]")
# RFC 3986's unreserved and reserved characters: all that the CloudEvents HTTP binding (3.1.3.2) leaves as they are.
PLAIN_IN_HEADER = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


@dataclass(frozen=True, slots=True)
class Event:
    """One CloudEvent; ``attributes`` holds the extensions, such as ``bucket``, in lower case."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ObjectFinalized:
    """An object came to be in a bucket. The store, not the event, says which generation is current.

    Raises:
        EventRefused: a text that no object has and no database keeps, with NUL or half a character in it.
    """

    bucket: str
    name: str
    generation: str | None
    event_id: str
    event_source: str

    def __post_init__(self) -> None:
        texts = (self.bucket, self.name, self.generation or "", self.event_id, self.event_source)
        if any(UNKEPT.search(text) for text in texts):
            raise EventRefused("the event's texts, such as the object's name, hold NUL or half a character")

    @classmethod
    def of(cls, event: Event) -> ObjectFinalized:
        """Read bucket, name and generation from the data of ``event``.

        Raises:
            EventRefused: another type of event, its data lacks the bucket or the name, or a text is none.
        """
        if event.type != OBJECT_FINALIZED:
            raise EventRefused(f"event type {event.type!r} is not {OBJECT_FINALIZED!r}")
        generation = event.data.get("generation")
        return cls(
            bucket=_required_text(event.data, "bucket"),
            name=_required_text(event.data, "name"),
            generation=None if generation in (None, "") else str(generation),
            event_id=event.id,
            event_source=event.source,
        )


def make(type: str, data: Mapping[str, Any], *, source: str = "//rowdock", subject: str | None = None) -> Event:
    """Make an event of now, with an id of its own."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return Event(id=uuid.uuid4().hex, source=source, type=type, subject=subject, time=now, data=data)


def storage_source(bucket: str) -> str:
    """Return the ``source`` of every event of ``bucket``, as Eventarc writes it."""
    return f"//storage.googleapis.com/projects/_/buckets/{bucket}"


# --- In


def parse(headers: Mapping[str, str], body: bytes) -> Event:
    """Read the event that a request, or the attributes and data of a Pub/Sub message, carries.

    Blanks around a ``ce-`` value are dropped: Eventarc takes a value with a trailing blank for an illegal header and
    falls back to a Pub/Sub message that has it among its attributes.

    Raises:
        EventRefused: nothing known, or incomplete; the message says what is missing.
    """
    return _parse({name.lower(): _header_text(value) for name, value in headers.items()}, body)


def _parse(named: Mapping[str, str], body: bytes) -> Event:
    media_type = named.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == BATCH_MEDIA_TYPE:
        return _unwrapped(_structured(_only_one(_json(body))), named)
    if media_type == STRUCTURED_MEDIA_TYPE:
        return _unwrapped(_structured(_json(body)), named)
    if "ce-type" in named or "ce-specversion" in named:
        return _unwrapped(_binary(named, body), named)
    if not body.strip() and "eventtype" in named:
        return _notification(named, {})  # a notification with payloadFormat NONE
    return _bare(named, _object(_json(body), "the body"))


def _bare(named: Mapping[str, str], document: Mapping[str, Any]) -> Event:
    """Tell by its shape what a JSON object without CloudEvents headers is."""
    if "specversion" in document:
        return _unwrapped(_structured(document), named)
    if isinstance(document.get("message"), dict):
        return _pubsub(document["message"])
    if isinstance(document.get("context"), dict):
        return _legacy({**document["context"], "data": document.get("data")}, named)
    if "eventtype" in named or document.get("kind") == "storage#object":
        return _notification(named, document)
    if "eventType" in document and "eventId" in document:
        return _legacy(document, named)
    if str(document.get("type")) in OWN_TYPES:
        return _scheduled(named, document, _scheduler_id(named))
    raise EventRefused(
        "the request is no event: expected ce-* headers, application/cloudevents+json, a Pub/Sub message, a Cloud "
        f"Storage notification or a scheduled {sorted(OWN_TYPES)}; found a JSON object with {sorted(document)[:8]}"
    )


def _unwrapped(event: Event, named: Mapping[str, str]) -> Event:
    """Return the event inside ``event``, if it is a mere envelope."""
    if event.type == PUBSUB_PUBLISHED:
        return _pubsub(_object(event.data.get("message"), "data.message"))
    if event.type == KNATIVE_PING:
        return _scheduled(named, event.data, event.id)
    return event


def _binary(named: Mapping[str, str], body: bytes) -> Event:
    attributes = {name[3:]: _percent_decoded(value).strip() for name, value in named.items() if name.startswith("ce-")}
    data = _object(_json(body), "the body") if body.strip() else {}
    return _event(attributes, data)


def _structured(document: Any) -> Event:
    envelope = dict(_object(document, "the CloudEvent"))
    data, encoded = envelope.pop("data", None), envelope.pop("data_base64", None)
    if encoded is not None:
        data = _json(_base64(encoded, "data_base64"))
    elif isinstance(data, str):
        data = _json(data.encode())
    attributes = {name.lower(): _attribute(name, value) for name, value in envelope.items() if value is not None}
    return _event(attributes, {} if data is None else _object(data, "data"))


def _attribute(name: str, value: Any) -> str:
    """A context attribute as text: only an extension may be a number or a boolean (CloudEvents, 3.1 and 3.3)."""
    if isinstance(value, dict | list) or (name.lower() in REQUIRED and not isinstance(value, str)):
        raise EventRefused(f"the CloudEvent's {name[:100]} must be text, found {type(value).__name__}")
    return str(value).strip()


def _event(attributes: dict[str, str], data: Mapping[str, Any]) -> Event:
    missing = [name for name in REQUIRED if not attributes.get(name)]
    if missing:
        raise EventRefused(f"the CloudEvent lacks {', '.join(missing)}")
    for name in ("specversion", "datacontenttype", "dataschema"):
        attributes.pop(name, None)
    known = {name: attributes.pop(name, None) or None for name in ("subject", "time")}
    id_, source, type_ = (attributes.pop(name) for name in REQUIRED)
    return Event(id=id_, source=source, type=type_, **known, data=data, attributes=attributes)


def _pubsub(message: Mapping[str, Any]) -> Event:
    """Read a Pub/Sub message as a request whose headers are its attributes and whose body is its data."""
    payload = _base64(message.get("data") or "", "message.data")
    message_id = str(message.get("messageId") or message.get("message_id") or "")
    published = str(message.get("publishTime") or message.get("publish_time") or "")
    attributes = _object(message.get("attributes") or {}, "message.attributes")
    metadata = {"x-goog-pubsub-message-id": message_id, "x-goog-pubsub-publish-time": published}
    return _parse(metadata | {name.lower(): str(value) for name, value in attributes.items()}, payload)


def _notification(named: Mapping[str, str], resource: Mapping[str, Any]) -> Event:
    """Read a Cloud Storage notification: the object's resource as data, or nothing but attributes."""
    notification = named.get("eventtype", "OBJECT_FINALIZE")
    given = {
        "bucket": named.get("bucketid"),
        "name": named.get("objectid"),
        "generation": named.get("objectgeneration"),
    }
    data = {name: value for name, value in given.items() if value} | dict(resource)
    bucket, name = _required_text(data, "bucket"), _required_text(data, "name")
    return Event(
        id=named.get("x-goog-pubsub-message-id") or object_event_id(bucket, name, str(data.get("generation"))),
        source=storage_source(bucket),
        type=TYPE_BY_NOTIFICATION.get(notification, notification),
        subject=f"objects/{name}",
        time=named.get("eventtime") or named.get("x-goog-pubsub-publish-time") or None,
        data=data,
        attributes={"bucket": bucket},
    )


def _legacy(document: Mapping[str, Any], named: Mapping[str, str]) -> Event:
    data = _object(document.get("data") or {}, "data")
    legacy_type = str(document.get("eventType") or "")
    type_ = TYPE_BY_LEGACY_TYPE.get(legacy_type, legacy_type)
    if type_ == PUBSUB_PUBLISHED:
        return _pubsub({"messageId": document.get("eventId"), **data})
    resource = document.get("resource")
    path = resource.get("name", "") if isinstance(resource, dict) else str(resource or "")
    bucket = data.get("bucket")
    attributes = {
        "id": str(document.get("eventId") or ""),
        "source": storage_source(bucket) if isinstance(bucket, str) else f"//{path or 'unknown'}",
        "type": type_,
        "subject": f"objects/{data['name']}" if "name" in data else "",
        "time": str(document.get("timestamp") or ""),
    }
    return _event(attributes | ({"bucket": bucket} if isinstance(bucket, str) else {}), data)


def _scheduled(named: Mapping[str, str], document: Mapping[str, Any], event_id: str) -> Event:
    """Read ``{"type": "dev.rowdock.…", "data": {…}}``, all that a clock can be told to post."""
    if str(document.get("type")) not in OWN_TYPES:
        raise EventRefused(f"a scheduled call must carry a type of {sorted(OWN_TYPES)}; found {document.get('type')!r}")
    data = _object(document.get("data") or {}, "data")
    time = named.get("ce-time") or named.get("x-cloudscheduler-scheduletime") or None
    return Event(id=event_id, source="//rowdock/schedule", type=str(document["type"]), time=time, data=data)


def _scheduler_id(named: Mapping[str, str]) -> str:
    """Return the same id for every attempt of one scheduled run, if the scheduler says which run it is."""
    name, time = named.get("x-cloudscheduler-jobname", ""), named.get("x-cloudscheduler-scheduletime", "")
    return f"{name}@{time}" if time else uuid.uuid4().hex


def object_event_id(bucket: str, name: str, generation: str) -> str:
    """Return an id that every announcement of one generation of an object shares: 32 hex digits."""
    return hashlib.sha256("\0".join((bucket, name, generation)).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _only_one(batch: Any) -> Any:
    if not isinstance(batch, list) or len(batch) != 1:
        count = len(batch) if isinstance(batch, list) else "no list"
        raise EventRefused(f"a batch must hold exactly one event, found {count}; deliver them one by one")
    return batch[0]


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise EventRefused(f"the {len(body)} bytes of the event are not JSON") from None


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise EventRefused(f"{what} must be a JSON object, found {type(value).__name__}")
    return value


def _base64(text: Any, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise EventRefused(f"{what} is not base64") from None


def _required_text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise EventRefused(f"the event's data lacks {name!r}, the object's {name}")
    return value


def _header_text(value: str) -> str:
    """Undo WSGI's reading of UTF-8 headers as Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _percent_decoded(value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        return value


# --- Out


def binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of ``event`` in CloudEvents' binary mode."""
    attributes = {"id": event.id, "source": event.source, "type": event.type, **event.attributes}
    attributes |= {name: value for name, value in (("subject", event.subject), ("time", event.time)) if value}
    headers = {f"ce-{name}": quote(value, safe=PLAIN_IN_HEADER) for name, value in attributes.items()}
    return {"ce-specversion": "1.0", **headers, "content-type": "application/json"}, json.dumps(event.data).encode()


def send(event: Event, settings: Settings) -> None:
    """Post ``event`` to ``settings.events_url``, with an identity token where ``settings`` says how to get one.

    Raises:
        SettingsError: nothing takes events here; the message names the variable.
        ServiceUnavailable: not accepted within 10 s.
    """
    from shared import identity, outbound

    if settings.events_url is None:
        raise SettingsError("EVENTS_URL (or K_SINK) is not set, so that no event can be sent")
    headers, body = binary(event)
    headers |= identity.outgoing_headers(settings.events_url, settings)
    status, _ = outbound.exchange("POST", settings.events_url, headers=headers, body=body, timeout_s=SEND_TIMEOUT_S)
    if not 200 <= status < 300:
        raise ServiceUnavailable(f"event {event.type} {event.id} was answered {status}")
