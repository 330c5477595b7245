"""What a store's webhook says, in the store's own words, and the object that it means."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from local_emulator.object_events import Announcement, announced_by_s3, announced_by_seaweed, finalized
from shared.objectstore import ObjectInfo

INFO = ObjectInfo(
    bucket="csv-uploads",
    name="in/a.csv",
    generation="g1",
    size=0,
    etag="d41d8cd98f00b204e9800998ecf8427e",
    crc32c="AAAAAA==",
    content_type="text/csv",
    content_encoding="gzip",
    updated=datetime(2026, 11, 24, 13, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1))),
)


def test_times_are_utc_as_production_writes_them():
    """Microseconds in the event's time, milliseconds in the object's."""
    event = finalized(INFO)
    assert event.time == "2026-11-24T12:00:00.123456Z"
    assert {event.data[n] for n in ("timeCreated", "updated", "timeStorageClassUpdated")} == {
        "2026-11-24T12:00:00.123Z"
    }


def test_what_the_store_does_not_know_is_left_out():
    """No MD5 for an upload in parts, no checksum or type where there is none: absent, never null."""
    from dataclasses import replace

    parts = replace(
        INFO, etag="9bb58f26192e4ba00f01e2e7b136bbd8-2", crc32c=None, content_type=None, content_encoding=None
    )
    assert not {"md5Hash", "crc32c", "contentType", "contentEncoding"} & finalized(parts).data.keys()
    assert finalized(INFO).data["md5Hash"] == "1B2M2Y8AsgTpgAmY7PhCfg=="
    assert (finalized(INFO).data["crc32c"], finalized(INFO).data["contentEncoding"]) == ("AAAAAA==", "gzip")


def test_every_value_is_text():
    """The JSON form of Cloud Storage writes 64-bit numbers as text."""
    assert {type(value) for value in finalized(INFO).data.values()} == {str}


def s3_record(name="s3:ObjectCreated:Put", key="in/a+b%2Bc.csv", **more):
    return {"eventName": name, "s3": {"bucket": {"name": "b"}, "object": {"key": key, **more}}}


@pytest.mark.parametrize(
    ("record", "announced"),
    [
        (s3_record(), [Announcement("b", "in/a b+c.csv")]),
        (s3_record("ObjectCreated:CompleteMultipartUpload"), [Announcement("b", "in/a b+c.csv")]),
        (s3_record(versionId="v7"), [Announcement("b", "in/a b+c.csv", "v7")]),
        (s3_record(versionId="null"), [Announcement("b", "in/a b+c.csv")]),
        (s3_record("s3:ObjectRemoved:Delete"), []),
        (s3_record("s3:ObjectAccessed:Get"), []),
    ],
)
def test_a_webhook_in_s3s_form_names_the_object(record, announced):
    """Keys are URL-encoded there; only what was created counts."""
    assert list(announced_by_s3({"Records": [record]})) == announced


def test_a_webhook_without_records_announces_nothing():
    assert list(announced_by_s3({})) == []


def seaweed(key, kind="create", **entry):
    return {"event_type": kind, "key": key, "message": {"new_entry": {"name": key.rpartition("/")[2], **entry}}}


@pytest.mark.parametrize(
    ("body", "announced"),
    [
        (seaweed("/buckets/b/in/a b%.csv"), [Announcement("b", "in/a b%.csv")]),
        (seaweed("/buckets/b/a.csv", "update"), [Announcement("b", "a.csv")]),
        (seaweed("/buckets/b/in/a.csv.versions/v_0123"), [Announcement("b", "in/a.csv")]),
        (seaweed("/buckets/b/in", is_directory=True), []),
        (seaweed("/buckets/b/.uploads/77/0001.part"), []),
        (seaweed("/buckets/b/a.csv", "delete"), []),
        (seaweed("/elsewhere/b/a.csv"), []),
        (seaweed("/buckets/b"), []),
    ],
)
def test_a_webhook_of_seaweedfs_names_the_object(body, announced):
    """Folders and parts of uploads are no objects; a version's file stands for its object."""
    assert list(announced_by_seaweed(body)) == announced
