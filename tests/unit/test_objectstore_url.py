"""Which store a URL names, and what naming it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared import objectstore
from shared.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("gs://", "GcsStore"),
        ("gs+http://127.0.0.1:4443", "GcsStore"),
        ("s3://?region=eu-west-1", "S3Store"),
        ("s3://key:s%2Fecret@store.example:9000", "S3Store"),
        ("s3+http://key:secret@[::1]:9000", "S3Store"),
    ],
)
def test_each_form_names_its_store(url: str, kind: str) -> None:
    assert type(objectstore.connect(url)).__name__ == kind


@pytest.mark.parametrize("url", ["", "http://key:secret@host", "s3+http://key:secret@host:port", "file:///secret"])
def test_any_other_url_is_refused_without_being_repeated(url: str) -> None:
    """It holds a secret; the message names the setting and the forms."""
    with pytest.raises(SettingsError, match=r"STORAGE_URL takes gs://") as raised:
        objectstore.connect(url)
    assert "secret" not in str(raised.value)


def test_importing_the_package_loads_no_store_library() -> None:
    """A function that never touches the other store does not pay for its library at a cold start."""
    libraries = {"boto3", "botocore", "google.auth", "google.cloud.storage"}
    code = f"import sys, shared.objectstore; print(sorted({libraries} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
