"""The manifest reads back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from shared.backups import manifest as manifests
from shared.backups.manifest import Manifest, is_id, new_id, parse
from shared.errors import BackupDamaged
from tests.backups import AT, a_manifest, a_part, a_table


def sealed(document: dict[str, Any]) -> bytes:
    """``document`` as an object whose own sum is right."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    return json.dumps({**content, "sha256": manifests._sum(content)}).encode()


def document_of(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest.to_bytes())
    return found


def paths(value: Any, so_far: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where each key of each object of a document stands; what is within an AVRO schema is not ours."""
    if isinstance(value, dict) and "avro_schema" not in so_far:
        for key, inner in value.items():
            yield (*so_far, key)
            yield from paths(inner, (*so_far, key))
    elif isinstance(value, list) and value:
        yield from paths(value[0], (*so_far, 0))


PATHS = list(paths(document_of(a_manifest())))


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


@pytest.mark.parametrize("kind", ["scheduled", "now", "undo"])
def test_a_manifest_reads_back_as_it_was_written(kind: Any) -> None:
    """All of it, whatever asked for the backup."""
    manifest = a_manifest(kind)
    assert parse(manifest.to_bytes()) == manifest


def test_names_of_any_kind_come_back() -> None:
    """Columns and tables may be called what PostgreSQL allows; a folder holds them escaped."""
    backup_id = new_id("scheduled", AT)
    odd = "tá/ble .."
    named = manifests.part_name(backup_id, "0a1b2c3d", "sch/ema", odd, 0)
    assert named.count("/") == 4
    table = a_table(backup_id, schema="sch/ema", name=odd, rows=2, parts=(a_part(backup_id, object=named),))
    manifest = a_manifest(tables=(table,))
    assert parse(manifest.to_bytes()) == manifest


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_key_that_is_missing_is_told(path: tuple[str | int, ...]) -> None:
    """Each key of each level is needed."""
    document = document_of(a_manifest())
    del at(document, path[:-1])[path[-1]]
    body = json.dumps(document).encode() if path == ("sha256",) else sealed(document)
    with pytest.raises(BackupDamaged):
        parse(body)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_another_type_is_told(path: tuple[str | int, ...]) -> None:
    """A number with a point stands nowhere in a manifest."""
    document = document_of(a_manifest())
    at(document, path[:-1])[path[-1]] = 1.5
    body = json.dumps(document).encode() if path == ("sha256",) else sealed(document)
    with pytest.raises(BackupDamaged):
        parse(body)


@pytest.mark.parametrize("path", [path[:-1] for path in PATHS], ids=lambda path: ".".join(map(str, path)) or "top")
def test_a_key_too_many_is_told(path: tuple[str | int, ...]) -> None:
    """What a later version says, this one would pass over."""
    document = document_of(a_manifest())
    at(document, path)["later"] = 1
    with pytest.raises(BackupDamaged, match="later"):
        parse(sealed(document))


def test_a_changed_character_is_told_by_the_sum() -> None:
    """Whoever edits a manifest has to seal it again."""
    body = a_manifest().to_bytes()
    with pytest.raises(BackupDamaged, match="sha256"):
        parse(body.replace(b'"rows": 4', b'"rows": 5'))


def test_no_flipped_bit_changes_what_is_read() -> None:
    """Each bit of the object, one at a time: refused, or read as it was."""
    manifest = a_manifest()
    body = manifest.to_bytes()
    for position in range(0, len(body), 7):
        flipped = bytearray(body)
        flipped[position] ^= 1 << position % 8
        try:
            assert parse(bytes(flipped)) == manifest
        except BackupDamaged:
            continue


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b"null", b"{", b'{"format": "other"}', b"[" * 100_000, b'{"a": NaN}', b'{"a": 1, "a": 2}'],
    ids=lambda body: body[:12].decode("latin1"),
)
def test_what_is_no_manifest_is_told(body: bytes) -> None:
    """Not even JSON, or another program's."""
    with pytest.raises(BackupDamaged):
        parse(body)


def test_another_version_is_told_with_its_number() -> None:
    document = document_of(a_manifest()) | {"version": 2}
    with pytest.raises(BackupDamaged, match="version 2"):
        parse(sealed(document))


CONTRADICTIONS: dict[str, Callable[[Manifest], Manifest]] = {
    "rows that do not add up": lambda m: replace(m, tables=(replace(m.tables[0], rows=5),)),
    "a part in another backup's folder": lambda m: replace(
        m, tables=(replace(m.tables[0], parts=(a_part("20261126T031500Z", rows=4),)),)
    ),
    "a part of another table": lambda m: replace(m, tables=(replace(m.tables[0], name="departments"),)),
    "a part above its folder": lambda m: replace(
        m,
        tables=(
            replace(m.tables[0], parts=(a_part(m.backup_id, rows=4, object=f"backups/{m.backup_id}/../x/00000.avro"),)),
        ),
    ),
    "a part twice": lambda m: replace(m, tables=(replace(m.tables[0], parts=(a_part(m.backup_id),) * 2),)),
    "parts in another order": lambda m: replace(m, tables=(replace(m.tables[0], parts=m.tables[0].parts[::-1]),)),
    "a table twice": lambda m: replace(m, tables=(m.tables[0], m.tables[0])),
    "a schema of another sum": lambda m: replace(m, tables=(replace(m.tables[0], avro_schema_sha256="00" * 32),)),
    "an id of another kind": lambda m: replace(m, kind="now"),
    "no tables": lambda m: replace(m, tables=()),
    "a table without parts": lambda m: replace(m, tables=(replace(m.tables[0], rows=0, parts=()),)),
}


@pytest.mark.parametrize("made", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_told(made: Callable[[Manifest], Manifest]) -> None:
    """Its sum is right, and it cannot be true."""
    with pytest.raises(BackupDamaged):
        parse(made(a_manifest()).to_bytes())


def test_the_same_instant_has_one_id_and_now_has_another_each_time() -> None:
    """In whatever zone, and whatever part of the second, it is said."""
    bogota = datetime(2026, 11, 24, 22, 15, 0, 999, tzinfo=timezone(timedelta(hours=-5)))
    assert new_id("scheduled", AT) == new_id("scheduled", bogota) == "20261125T031500Z"
    ids = {new_id("now", AT) for _ in range(50)} | {new_id("undo", AT) for _ in range(50)}
    assert len(ids) == 100
    assert all(is_id(text) for text in ids)


@pytest.mark.parametrize(
    "text", ["", "..", "20261125T031500", "20261125T031500Z/x", "20261125T031500Z-now-1", "latest"]
)
def test_no_other_text_is_an_id(text: str) -> None:
    """An id becomes part of an object's name."""
    assert not is_id(text)


def test_instants_are_kept_to_the_microsecond() -> None:
    exact = datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert parse(a_manifest(snapshot_at=exact).to_bytes()).snapshot_at == exact
