"""The emulator starts, says what is wrong, ends with nothing left, and finds everything again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from local_emulator.looking import ask
from shared import events, settings
from tests.e2e.emulator.project import processes_of, wait_for


def nothing_left(project):
    wait_for(lambda: not processes_of(project.state.path), f"the end of {processes_of(project.state.path)}", 15)


def test_what_was_delivered_is_not_delivered_again_and_what_was_not_still_is(project):
    """Queue, bucket and database outlive kill -9 and stop; --fresh forgets them; no end leaves a process."""
    project.storage = "seaweedfs"
    process = project.up()
    project.put("done.csv")
    wait_for(lambda: project.calls_about("done.csv"), "the first call")
    wait_for(lambda: project.deliveries(state="done"), "its end")
    (project.folder / "functions/hold").touch()
    project.put("under way.csv")
    wait_for(lambda: project.calls_about("under way.csv"), "the call that hangs")
    query(project, "create table kept (n integer)")
    process.kill()
    process.wait(10)
    nothing_left(project)
    (project.folder / "functions/hold").unlink()

    process = project.up()
    wait_for(lambda: len(project.calls_about("under way.csv")) == 2, "the second attempt")
    wait_for(lambda: len(project.deliveries(state="done")) == 2, "its end")
    assert len(project.calls_about("done.csv")) == 1
    assert query(project, "select count(*) from kept") == "0"
    assert project.call("stop").returncode == 0
    assert process.wait(10) == 128 + signal.SIGTERM
    nothing_left(project)

    project.up("--fresh")
    assert project.deliveries() == []
    assert query(project, "select to_regclass('kept') is null") == "t"
    assert project.call("exec", "--", sys.executable, "-c", LIST_BUCKET).stdout == "0\n"
    assert project.call("stop").returncode == 0
    nothing_left(project)


LIST_BUCKET = """
import os
from shared import objectstore
print(len(list(objectstore.connect(os.environ["STORAGE_URL"]).list(os.environ["UPLOAD_BUCKET"]))))
"""


def query(project, statement):
    done = project.call("exec", "--", "psql", "-XAtc", statement)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_ctrl_c_ends_everything(project):
    """A terminal sends SIGINT; children sit in sessions of their own and are ended by the emulator."""
    process = project.up()
    assert project.down(process, signal.SIGINT) == 128 + signal.SIGINT
    nothing_left(project)
    assert project.state.running() is None


def test_what_a_function_sends_while_the_emulator_ends_is_kept(project):
    """Functions have time to end well: an event that one sends then is on disk, for the next start."""
    process = project.up(storage="moto")
    hold = project.folder / "functions/hold"
    hold.touch()
    project.put("under way.csv")
    wait_for(lambda: project.calls_about("under way.csv"), "the call that hangs")
    reached, current = project.running, settings.load(project.running.environment)
    process.terminate()
    wait_for(lambda: "emulator  | stopping" in project.log, "the end's beginning")
    for _ in range(10):
        events.send(events.make(events.PENDING_DRAIN, {}), current)
    assert ask(reached, "GET", "/_emulator/status")
    hold.unlink()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert len(project.deliveries(state="pending")) == 10
    assert "Traceback" not in project.log


def test_a_database_that_dies_ends_the_emulator_and_every_command_says_so(project):
    """Exit status 4 and the part's name; a command that waits for it ends in a sentence, and no process stays."""
    process = project.up(storage="moto")
    (project.folder / "functions/hold").touch()
    (project.folder / "jobs.csv").write_text("1,Baker\n")
    command = project.command("upload", "jobs.csv", "--wait")
    waiting = subprocess.Popen(command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: project.calls_about("jobs.csv"), "the call that hangs")
    wait_for(lambda: query(project, WATCHERS) == "1", "the command that watches history")
    os.kill(int((project.state.path / "postgres/data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    _, said = waiting.communicate(timeout=30)
    (project.folder / "functions/hold").unlink()
    assert (waiting.returncode, said.count("\n")) == (1, 1), said
    assert said.startswith("local_emulator: history cannot be read")
    assert process.wait(30) == 4
    assert "local_emulator: database: ended" in project.log
    nothing_left(project)


WATCHERS = "select count(*) from pg_stat_activity where application_name = 'rowdock-upload'"


def ingest_pid(emulator):
    return next(f["pid"] for f in emulator.status()["functions"] if f["name"] == "ingest")


def test_a_function_that_dies_is_started_again(emulator):
    """kill -9 of a function's server is seen, said, and mended; what came meanwhile is delivered."""
    pid = ingest_pid(emulator)
    os.kill(pid, signal.SIGKILL)
    emulator.put("meanwhile.csv")
    wait_for(lambda: emulator.calls_about("meanwhile.csv"), "the call")
    # A worker outlives its server for a moment, and may have answered that call: what is said and mended comes after.
    wait_for(lambda: "ended; it is started again" in emulator.log, "the line that says so")
    wait_for(lambda: pid != ingest_pid(emulator), "a new server")
    emulator.put("afterwards.csv")
    wait_for(lambda: emulator.calls_about("afterwards.csv"), "the call of the new one")


def test_exec_runs_a_command_inside_and_returns_its_status(emulator):
    """psql, boto3 and curl's address work from the environment alone; the status is the command's own."""
    assert emulator.call("exec", "--", "sh", "-c", "exit 7").returncode == 7
    assert emulator.call("exec", "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert emulator.call("exec", "--", "no-such-command").returncode == 127
    assert query(emulator, "select current_user || '@' || current_database()") == "rowdock@employee_data_db"
    done = emulator.call("exec", "--", sys.executable, "-c", OUTSIDE_CLIENTS)
    assert done.stdout == "['avro-backups', 'csv-uploads'] 200\n", done.stderr


OUTSIDE_CLIENTS = """
import os, boto3
from shared import outbound
names = sorted(b["Name"] for b in boto3.client("s3").list_buckets()["Buckets"])
print(names, outbound.exchange("GET", os.environ["ROWDOCK_URL"] + "/api/jobs")[0])
"""


def test_exec_without_an_emulator_starts_one_for_the_command(project):
    """A fresh one on free ports, ended with the command; psql and rowdock are found though nothing is on PATH."""
    commands = "psql -XAtc 'select 6 * 7' && rowdock check"
    done = project.call("exec", "--", "/bin/sh", "-c", commands, env={"PATH": "/nowhere"})
    assert (done.returncode, done.stdout) == (0, "42\ndictionary and database agree\n"), done.stderr
    assert not (project.state.path / "queue.db").exists()
    wait_for(lambda: not processes_of(project.folder / "deploy.yaml"), "the end of every process", 15)


def test_detach_returns_when_all_is_ready_and_stop_ends_it(project):
    """The address that is printed answers at once; the listings are there for programs."""
    started = project.call("up", "--detach", "--storage", "moto", "--port", "0")
    try:
        assert (started.returncode, "ready: http://127.0.0.1:" in started.stdout) == (0, True), started.stderr
        status = json.loads(project.call("status", "--json").stdout)
        assert [(f["name"], f["alive"]) for f in status["functions"]] == [("ingest", True), ("api", True)]
        assert {s["name"] for s in status["schedules"]} == {"sweep", "reconcile"}
        again = project.call("up", "--detach", "--storage", "moto", "--port", "0")
        assert (again.returncode, f"pid {status['pid']}" in again.stderr) == (5, True)
    finally:
        stopped = project.call("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    nothing_left(project)
    assert project.call("status").returncode == 1
    assert project.call("stop").returncode == 0


def test_a_taken_port_names_its_holder(project):
    """Exit status 5, and the process to end; nothing was started."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        refused = project.call("up", "--port", str(port), "--storage", "moto")
    assert refused.returncode == 5
    assert f"port {port} is taken by pid {os.getpid()} (" in refused.stderr
    nothing_left(project)


def test_a_function_that_does_not_start_is_named_with_its_traceback(project):
    """Exit status 4, the part's name, and the end of what it printed; the other parts are ended."""
    (project.folder / "functions/api.py").write_text("import no_such_module\n\ndef api(request): ...\n")
    refused = project.call("up", "--port", "0", "--storage", "moto")
    assert refused.returncode == 4
    assert refused.stderr.startswith("local_emulator: api: ")
    assert "No module named 'no_such_module'" in refused.stderr
    nothing_left(project)


def test_a_database_that_cannot_be_reached_is_named_with_the_reason(project):
    """Exit status 4; host, port and why, but no password."""
    refused = project.call("up", "--port", "0", "--storage", "moto", "--db", "postgresql://me:secret@127.0.0.1:1/x")
    assert refused.returncode == 4
    assert "local_emulator: database: the database cannot be reached" in refused.stderr
    assert "port 1 failed: Connection refused" in refused.stderr
    assert "secret" not in refused.stderr + refused.stdout
    nothing_left(project)


def test_a_wrong_deploy_yaml_is_refused_with_its_line(project):
    """Exit status 3, before anything is started."""
    deploy = project.folder / "deploy.yaml"
    text = deploy.read_text()
    deploy.write_text(text.replace("    retry: 7 ", "    retrie: 7 ", 1))
    line = deploy.read_text().splitlines().index(next(x for x in deploy.read_text().splitlines() if "retrie" in x)) + 1
    refused = project.call("up", "--port", "0")
    assert refused.returncode == 3
    assert f"deploy.yaml:{line}: spec.delivery.retrie: unknown field" in refused.stderr


def test_a_call_that_takes_too_long_counts_as_504(project):
    """As on Cloud Run: the caller has its answer at the limit, and the delivery is made again."""
    deploy = project.folder / "deploy.yaml"
    deploy.write_text(deploy.read_text().replace("timeoutSeconds: 540", "timeoutSeconds: 1"))
    project.up(time_scale="0.0001")
    hold = project.folder / "functions/hold"
    hold.touch()
    project.put("slow.csv")
    late = wait_for(lambda: [d for d in project.deliveries() if d["last_status"] == 504], "the 504")[0]
    assert "no answer within 1 s" in late["last_error"]
    hold.unlink()
    wait_for(lambda: project.deliveries(state="done"), "the delivery")


def test_the_gateway_passes_api_calls_on_as_they_are(emulator):
    """Path, query, method, headers and bodies of any framing arrive; answers of any framing come back."""
    address = emulator.running.url.removeprefix("http://")
    curl = ["curl", "-sS", "--fail-with-body", "--max-time", "20"]

    def get(*arguments):
        return subprocess.run([*curl, *arguments], capture_output=True, text=True, timeout=30, check=True).stdout

    answer = json.loads(get("-X", "PUT", "-d", "x" * 10, "-H", "X-Own: a  b", f"http://{address}/api/a%20b?q=1&r=%2F"))
    assert (answer["method"], answer["path"], answer["query"]) == ("PUT", "/api/a b", "q=1&r=%2F")
    assert (answer["headers"]["x-own"], answer["size"]) == ("a  b", 10)
    large = "head -c 3000000 /dev/zero"
    chunked = f"{large} | curl -sS -T - -H 'Transfer-Encoding: chunked' -X POST http://{address}/functions/api/x"
    known = f"{large} > body; curl -sS --data-binary @body -H 'Expect: 100-continue' http://{address}/functions/api/y"
    for command, path in ((chunked, "/x"), (known, "/y")):
        done = subprocess.run(["sh", "-c", command], cwd=emulator.folder, capture_output=True, timeout=30, check=True)
        assert (json.loads(done.stdout)["size"], json.loads(done.stdout)["path"]) == (3_000_000, path)
    assert len(get(f"http://{address}/stream")) == 1_000_000
    assert get("-I", f"http://{address}/api/jobs").startswith("HTTP/1.1 200")
    twice = get("-v", f"http://{address}/api/1", f"http://{address}/api/2")
    assert twice.count('"method":"GET"') == 2
    assert (
        '"status": 404'
        in subprocess.run(
            [*curl, f"http://{address}/functions/x/"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    )


def test_fifty_calls_at_once_are_all_answered(emulator):
    """More than the function takes at a time wait for their turn."""
    from shared import outbound

    answers = []

    def call():
        answers.append(outbound.exchange("GET", f"{emulator.running.url}/api/jobs", timeout_s=20)[0])

    threads = [threading.Thread(target=call) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 50


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
    ids=["no request", "no header", "two framings", "two lengths", "no number", "too long"],
)
def test_a_malformed_request_is_refused_and_its_connection_closed(emulator, request_bytes):
    """What could be read in two ways is not passed on."""
    port = int(emulator.running.url.rpartition(":")[2])
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as client:
        client.sendall(request_bytes)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
    assert answer.split(b" ", 2)[1] in (b"400", b"431")
