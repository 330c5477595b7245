"""deploy.yaml: read as production reads it, and refused, line by line, where it would do nothing or something else."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from local_emulator import manifest
from local_emulator.manifest import ManifestError

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "deploy.yaml").read_text()


def load(tmp_path, text):
    path = tmp_path / "deploy.yaml"
    path.write_text(text)
    return manifest.load(path, root=ROOT)


def line_of(text, needle):
    return next(number for number, line in enumerate(text.splitlines(), 1) if needle in line)


def test_the_projects_own_file_says_what_the_design_asks():
    """Four functions over HTTP, two triggers that give up, five schedules."""
    found = manifest.load(ROOT / "deploy.yaml")
    assert set(found.functions) == {"ingest", "api", "backup", "restore"}
    assert {f.environment["FUNCTION_SIGNATURE_TYPE"] for f in found.functions.values()} == {"http"}
    assert all(f.secrets == ("DATABASE_URL",) for f in found.functions.values())
    assert (found.functions["ingest"].concurrency, found.functions["backup"].most_instances) == (1, 1)
    upload, own = found.triggers
    assert upload.filter == {"type": "google.cloud.storage.object.v1.finalized", "bucket": "csv-uploads"}
    assert own.filter == {"source": "//rowdock"}
    assert [(s.name, s.cron, s.function, s.path) for s in found.schedules] == [
        ("sweep", "* * * * *", "ingest", "/"),
        ("reconcile", "*/15 * * * *", "ingest", "/"),
        ("backup-nightly", "15 3 * * *", "backup", "/"),
        ("verify-daily", "45 3 * * *", "backup", "/verify"),
        ("expire-daily", "30 4 * * *", "backup", "/expire"),
        ("drill-weekly", "15 5 * * 0", "restore", "/drill"),
    ]


def test_every_function_ends_before_the_platform_ends_it():
    """DEADLINE_S lies under timeoutSeconds."""
    for function in manifest.load(ROOT / "deploy.yaml").functions.values():
        assert float(function.environment["DEADLINE_S"]) < function.timeout_s


def test_pauses_double_up_to_ten_minutes():
    """As Pub/Sub does: 10 s, 20 s, … 600 s."""
    trigger = manifest.load(ROOT / "deploy.yaml").triggers[0]
    assert [trigger.pause_s(attempt) for attempt in (1, 2, 3, 6, 7, 100)] == [10, 20, 40, 320, 600, 600]


def test_a_schedule_runs_by_its_own_time_zone(tmp_path):
    """03:15 in Lisbon is 02:15 UTC in summer and 03:15 in winter."""
    found = load(tmp_path, TEXT.replace('"15 3 * * *"\n  timezone: Etc/UTC', '"15 3 * * *"\n  timezone: Europe/Lisbon'))
    nightly = next(schedule for schedule in found.schedules if schedule.name == "backup-nightly")
    moments = [datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)]
    assert [next(nightly.runs_after(m)).astimezone(UTC).hour for m in moments] == [2, 3]


def test_who_restores_cannot_remove_a_backup_and_who_removes_cannot_change_the_data():
    """No one identity can destroy both."""
    roles = {
        document["metadata"]["name"]: document["metadata"]["annotations"]["rowdock.dev/gcp-roles"]
        for document in yaml.safe_load_all(TEXT)
        if document["kind"] == "ServiceAccount"
    }
    removers = {name for name, text in roles.items() if re.search(r"object(User|Admin) bucket:avro-backups", text)}
    assert removers == {"backup"}
    assert "database-url-restore" not in roles["backup"]
    assert "objectCreator bucket:avro-backups" in roles["restore"]


@pytest.mark.parametrize(
    ("duration", "seconds"), [("PT10S", 10), ("PT1M30S", 90), ("PT2H", 7200), ("PT0.5S", 0.5)], ids=str
)
def test_durations_are_iso_8601(duration, seconds):
    assert manifest.seconds(duration) == seconds


WRONG = {
    "a misspelt field": (
        "    retry: 7 ",
        "    retrie: 7 ",
        "retrie",
        "spec.delivery.retrie: unknown field; known here",
    ),
    "a missing field": ("    backoffPolicy: exponential\n", "", "delivery:", "spec.delivery: backoffPolicy is missing"),
    "text for a number": ("    retry: 7 ", '    retry: "7" ', "retry:", "'7' is not a whole number from 4 to 99"),
    "too many retries": ("    retry: 7 ", "    retry: 100 ", "retry:", "100 is not a whole number from 4 to 99"),
    "a number for text": ('maxScale: "20"', "maxScale: 20", "maxScale", "20 is not text; put it in quotes"),
    "a limit that is none": ('maxScale: "20"', 'maxScale: "0"', "maxScale", "'0' is not a whole number from 1"),
    "an unknown annotation": ("rowdock.dev/gcp-queue", "rowdock.test/gcp-queue", "rowdock.test", "is not understood"),
    "no duration": ("backoffDelay: PT10S", "backoffDelay: 10s", "backoffDelay", "'10s' is not an ISO 8601 duration"),
    "too long a pause": ("backoffDelay: PT10S", "backoffDelay: PT1H", "delivery:", "3600 s is not above 0"),
    "a trigger that ends early": ("timeout: PT540S", "timeout: PT60S", "delivery:", "60 s ends before the 540 s of"),
    "an unknown service": (
        "kind: Service, name: ingest}",
        "kind: Service, name: digest}",
        "name: digest}",
        "there is no Service 'digest'; known: api, backup, ingest, restore",
    ),
    "an unknown account": (
        "serviceAccountName: backup",
        "serviceAccountName: backups",
        "serviceAccountName: backups",
        "there is no ServiceAccount 'backups'",
    ),
    "an unknown broker": ("broker: default", "broker: main", "broker: main", "there is no Broker 'main'"),
    "an unknown kind": (
        "kind: PingSource",
        "kind: CronJobSource",
        "sources.knative",
        "CronJobSource is not understood",
    ),
    "no cron": ('"*/15 * * * *"', '"*/15 * * *"', "*/15", "is no time"),
    "a day that never comes": ('"15 3 * * *"', '"15 3 31 2 *"', "31 2", "is no time"),
    "no time zone": ("timezone: Etc/UTC", "timezone: Mars/Base", "Mars", "'Mars/Base' is not a time zone"),
    "data that is no object": ("""'{"tables": "*"}'""", "'[1]'", "'[1]'", "spec.data must be a JSON object"),
    "no source": ("functions/api/main.py", "functions/app/main.py", "env:", "'functions/app/main.py' cannot be read"),
    "no target": ("{name: FUNCTION_TARGET, value: api}", "{name: FUNCTION_TARGET, value: main}", "env:", "no function"),
    "another signature": (
        "FUNCTION_SIGNATURE_TYPE, value: http",
        "FUNCTION_SIGNATURE_TYPE, value: cloudevent",
        "env:",
        "FUNCTION_SIGNATURE_TYPE does not fit ingest",
    ),
    "a variable twice": (
        "            - {name: POOL_SIZE",
        '            - {name: THREADS, value: "2"}\n            - {name: POOL_SIZE',
        "env:",
        "each variable needs one value or valueFrom, and stands once",
    ),
    "a key twice": (
        "  broker: default\n",
        "  broker: default\n  broker: default\n",
        "",
        "'broker' stands here a second",
    ),
    "a name twice": ("name: reconcile\n", "name: sweep\n", "", "PingSource sweep is already defined on line"),
    "no YAML": ("metadata:\n  name: default", "metadata:\n name: [", "", "not YAML"),
}


@pytest.mark.parametrize(("old", "new", "where", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_with_its_line(tmp_path, old, new, where, said):
    """Nothing is ignored: each mistake names its line, and says what would be right."""
    assert old in TEXT
    wrong = TEXT.replace(old, new, 1)
    with pytest.raises(ManifestError) as refused:
        load(tmp_path, wrong)
    problem = next(problem for problem in refused.value.problems if said in problem)
    if where.endswith("delivery:") or where == "env:" or not where:
        assert problem.startswith("deploy.yaml:")
    else:
        assert problem.startswith(f"deploy.yaml:{line_of(wrong, where)}: ")


def test_every_problem_is_named_at_once(tmp_path):
    """Three mistakes, three lines, one run."""
    wrong = TEXT.replace("retry: 7", "retry: 1").replace("broker: default", "broker: 1", 1)
    with pytest.raises(ManifestError) as refused:
        load(tmp_path, wrong)
    assert len(refused.value.problems) == 3
