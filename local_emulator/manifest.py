"""deploy.yaml, read strictly: what is not understood is an error with its line, never ignored.

Knative's own CRDs keep unknown fields in a Trigger, so that a misspelt ``retry`` deploys and does nothing.
"""

from __future__ import annotations

import ast
import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import yaml
from cronsim import CronSim, CronSimError

MOST_BACKOFF_S = 600.0  # Pub/Sub's own ceiling, and Cloud Tasks'
GCP_LEAST_DELIVERIES, GCP_MOST_DELIVERIES = 5, 100


class ManifestError(Exception):
    """deploy.yaml cannot be used; ``problems`` holds one ``file:line: what`` for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Function:
    """One Service: a function, its limits and the environment that its document gives it.

    Attributes:
        concurrency: requests that one instance takes at a time.
        most_instances: instances that may run at once.
        environment: plain values alone; what comes from a secret is named in ``secrets``.
    """

    name: str
    source: str
    target: str
    timeout_s: float
    concurrency: int
    most_instances: int
    environment: Mapping[str, str]
    secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trigger:
    """Which events go to which function, and how often and when a delivery is tried again.

    Attributes:
        filter: CloudEvents attributes that must be equal; none matches every event.
        retries: deliveries after the first.
        backoff_s: pause before the first retry; the pause doubles (``exponential``) or grows by itself (``linear``).
        path: of the function, that events are posted to.
    """

    name: str
    function: str
    filter: Mapping[str, str]
    retries: int
    backoff_s: float
    exponential: bool
    timeout_s: float
    path: str

    def pause_s(self, attempts: int) -> float:
        """Return the seconds to wait after ``attempts`` (1 or more) deliveries have failed."""
        factor = 2 ** min(attempts - 1, 32) if self.exponential else attempts
        return min(self.backoff_s * factor, MOST_BACKOFF_S)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A PingSource: what is posted to which function, and when (cron expression in a time zone).

    Attributes:
        retries: calls after the first that failed, as Cloud Scheduler makes them; Knative makes none.
        path: of the function, that is called.
    """

    name: str
    cron: str
    timezone: str
    body: str
    content_type: str
    function: str
    retries: int
    path: str

    def runs_after(self, moment: datetime.datetime) -> Iterator[datetime.datetime]:
        """Return the moments of the runs after ``moment`` (aware), in order."""
        return CronSim(self.cron, moment.astimezone(ZoneInfo(self.timezone)))


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that deploy.yaml says and the emulator acts on."""

    functions: Mapping[str, Function]
    triggers: tuple[Trigger, ...]
    schedules: tuple[Schedule, ...]

    def schedules_called(self, name: str) -> list[Schedule]:
        """Return the schedule of that name, or those whose names go on from it: ``backup`` is ``backup-nightly``."""
        exact = [schedule for schedule in self.schedules if schedule.name == name]
        return exact or [schedule for schedule in self.schedules if schedule.name.startswith(f"{name}-")]


def load(path: Path, *, root: Path | None = None) -> Manifest:
    """Read and check ``path``; sources of functions are looked up below ``root`` (the manifest's folder when None).

    Raises:
        ManifestError: everything that is wrong, each with its line.
    """
    return _Reader(path, root or path.parent).manifest()


# --- The shape: a field's name, then what may stand there.


@dataclass(frozen=True)
class Text:
    """A scalar that YAML reads as text; ``pattern`` must match all of it."""

    pattern: str = r"[\s\S]*"
    what: str = "text"


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    least: int
    most: int


@dataclass(frozen=True)
class Fields:
    """A mapping with these fields and no others; a name that ends in ``?`` may be absent."""

    names: Mapping[str, Any]

    def required(self) -> set[str]:
        """Return the names that must be there."""
        return {name for name in self.names if not name.endswith("?")}

    def shape_of(self, name: str) -> Any:
        """Return what may stand under ``name``, or None if the field is unknown."""
        return self.names.get(name, self.names.get(f"{name}?"))

    def known(self) -> list[str]:
        """Return every field's name, for a message."""
        return sorted(name.removesuffix("?") for name in self.names)


@dataclass(frozen=True)
class Entries:
    """A mapping of any names; each value has one shape, and a pattern may restrict the names."""

    value: Any
    names: str = r".+"


@dataclass(frozen=True)
class Items:
    """A list with at least ``least`` items."""

    item: Any
    least: int = 0


NAME = Text(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", "a name of lower-case letters, digits and hyphens")
DURATION = Text(r"PT(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?", "an ISO 8601 duration such as PT10S")
ANNOTATIONS = Entries(Text(), r"(rowdock\.dev|autoscaling\.knative\.dev|run\.googleapis\.com)/[-A-Za-z0-9]+")
METADATA = Fields({"name": NAME, "annotations?": ANNOTATIONS, "labels?": Entries(Text())})
SERVICE_REF = Fields({"apiVersion": Text(r"serving\.knative\.dev/v1"), "kind": Text("Service"), "name": NAME})
SINK = Fields({"ref": SERVICE_REF, "uri?": Text(r"/.*", "a path")})
ENV_VALUE = Fields(
    {
        "name": Text(r"[A-Z][A-Z0-9_]*", "a variable's name"),
        "value?": Text(),
        "valueFrom?": Fields({"secretKeyRef": Fields({"name": NAME, "key": Text()})}),
    }
)
QUANTITY = Entries(Text(r"\d+(\.\d+)?(m|Ki|Mi|Gi)?", "a quantity such as 1 or 512Mi"), r"cpu|memory")
CONTAINER = Fields(
    {
        "image": Text(r".+"),
        "command?": Items(Text()),
        "args?": Items(Text()),
        "ports?": Items(Fields({"name?": Text("http1|h2c"), "containerPort": Whole(1, 65535)})),
        "env": Items(ENV_VALUE),
        "resources?": Fields({"limits?": QUANTITY, "requests?": QUANTITY}),
    }
)
POD = Fields(
    {
        "serviceAccountName": NAME,
        "containerConcurrency": Whole(1, 1000),
        "timeoutSeconds": Whole(1, 3600),
        "containers": Items(CONTAINER, 1),
    }
)
TEMPLATE = Fields({"metadata?": Fields({"annotations?": ANNOTATIONS, "labels?": Entries(Text())}), "spec": POD})
DELIVERY = Fields(
    {
        "retry": Whole(GCP_LEAST_DELIVERIES - 1, GCP_MOST_DELIVERIES - 1),
        "backoffPolicy": Text("exponential|linear", "exponential or linear"),
        "backoffDelay": DURATION,
        "timeout": DURATION,
        "deadLetterSink": SINK,
    }
)
TRIGGER = Fields(
    {
        "broker": NAME,
        "filter?": Fields({"attributes": Entries(Text(r".+"), r"[a-z0-9]{1,20}")}),
        "subscriber": SINK,
        "delivery": DELIVERY,
    }
)
PING = Fields(
    {
        "schedule": Text(r".+"),
        "timezone?": Text(r".+"),
        "contentType?": Text(r".+"),
        "data?": Text(),
        "sink": SINK,
    }
)
SHAPES = {
    ("v1", "ServiceAccount"): {},
    ("serving.knative.dev/v1", "Service"): {"spec": Fields({"template": TEMPLATE})},
    ("eventing.knative.dev/v1", "Broker"): {},
    ("eventing.knative.dev/v1", "Trigger"): {"spec": TRIGGER},
    ("sources.knative.dev/v1", "PingSource"): {"spec": PING},
}


@dataclass(slots=True)
class _Reader:
    """One reading of one file; problems gather, so that a person sees them all at once."""

    path: Path
    root: Path
    problems: list[tuple[int, str]] = field(default_factory=list)
    lines: dict[int, int] = field(default_factory=dict)  # id of a parsed mapping or list -> its first line
    key_lines: dict[tuple[int, str], int] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)  # keeps those ids from being given twice

    SCALARS: ClassVar[Mapping[str, Callable[[str], Any]]] = {
        "tag:yaml.org,2002:int": int,
        "tag:yaml.org,2002:float": float,
        "tag:yaml.org,2002:bool": lambda text: text.lower() in ("true", "yes", "on"),
        "tag:yaml.org,2002:null": lambda _: None,
    }

    def manifest(self) -> Manifest:
        documents = self._documents()
        self._stop_if_wrong()
        for document in documents:
            self._check_kind(document)
        self._stop_if_wrong()
        by_kind = self._by_kind(documents)
        self._check_names(documents)
        self._check_references(by_kind)
        self._stop_if_wrong()
        functions = {doc["metadata"]["name"]: self._function(doc) for doc in by_kind["Service"]}
        triggers = tuple(self._trigger(doc, functions) for doc in by_kind["Trigger"])
        schedules = tuple(self._schedule(doc) for doc in by_kind["PingSource"])
        self._stop_if_wrong()
        return Manifest(functions, triggers, schedules)

    def _stop_if_wrong(self) -> None:
        if self.problems:
            raise ManifestError([f"{self.path.name}:{line}: {what}" for line, what in sorted(self.problems)])

    def _wrong(self, line: int, what: str) -> None:
        self.problems.append((line, what))

    # YAML to values, each container's line remembered

    def _documents(self) -> list[Any]:
        try:
            text = self.path.read_text("utf-8")
            nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError([f"{self.path.name}:1: cannot be read: {type(error).__name__}"]) from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ManifestError([f"{self.path.name}:{line}: not YAML: {error.problem}"]) from error
        if not nodes:
            self._wrong(1, "there is no document; expected the Services, Triggers and PingSources of the functions")
        return [self._value(node) for node in nodes if node is not None]

    def _value(self, node: yaml.Node) -> Any:
        line = node.start_mark.line + 1
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = {}
            for key_node, value_node in node.value:
                if key_node.value in value:
                    self._wrong(key_node.start_mark.line + 1, f"{key_node.value!r} stands here a second time")
                value[key_node.value] = self._value(value_node)
                self.key_lines[id(value), key_node.value] = key_node.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode):
            value = [self._value(item) for item in node.value]
        else:
            return self.SCALARS.get(node.tag, str)(node.value)
        self.lines[id(value)] = line
        self.kept.append(value)
        return value

    def _line_of(self, mapping: Any, name: str, otherwise: int) -> int:
        return self.key_lines.get((id(mapping), name), otherwise)

    # Shape

    def _check_kind(self, document: Any) -> None:
        line = self.lines.get(id(document), 1)
        if not isinstance(document, dict):
            return self._wrong(line, "a document must be a mapping with apiVersion and kind")
        kind = (document.get("apiVersion"), document.get("kind"))
        if kind not in SHAPES:
            known = ", ".join(f"{version} {name}" for version, name in SHAPES)
            return self._wrong(line, f"{kind[0]} {kind[1]} is not understood here; known: {known}")
        shape = Fields({"apiVersion": Text(), "kind": Text(), "metadata": METADATA, **SHAPES[kind]})
        return self._check(document, shape, "", line)

    def _check(self, value: Any, shape: Any, place: str, line: int) -> None:
        line = self.lines.get(id(value), line)
        match shape:
            case Fields():
                self._check_fields(value, shape, place, line)
            case Entries():
                self._check_entries(value, shape, place, line)
            case Items():
                self._check_items(value, shape, place, line)
            case Text():
                if not isinstance(value, str):
                    self._wrong(line, f"{place}: {value!r} is not text; put it in quotes")
                elif not re.fullmatch(shape.pattern, value):
                    self._wrong(line, f"{place}: {value!r} is not {shape.what}")
            case Whole():
                if type(value) is not int or not shape.least <= value <= shape.most:
                    self._wrong(line, f"{place}: {value!r} is not a whole number from {shape.least} to {shape.most}")

    def _check_fields(self, value: Any, shape: Fields, place: str, line: int) -> None:
        if not isinstance(value, dict):
            return self._wrong(line, f"{place}: expected a mapping with {', '.join(shape.known())}")
        for name in sorted(shape.required() - value.keys()):
            self._wrong(line, f"{place or 'the document'}: {name} is missing")
        for name, inner in value.items():
            inner_place = f"{place}.{name}" if place else name
            if shape.shape_of(name) is None:
                known = ", ".join(shape.known())
                self._wrong(self._line_of(value, name, line), f"{inner_place}: unknown field; known here: {known}")
            else:
                self._check(inner, shape.shape_of(name), inner_place, self._line_of(value, name, line))
        return None

    def _check_entries(self, value: Any, shape: Entries, place: str, line: int) -> None:
        if not isinstance(value, dict):
            return self._wrong(line, f"{place}: expected a mapping")
        for name, inner in value.items():
            if not re.fullmatch(shape.names, name):
                self._wrong(self._line_of(value, name, line), f"{place}: {name!r} is not understood here")
            self._check(inner, shape.value, f"{place}.{name}", self._line_of(value, name, line))
        return None

    def _check_items(self, value: Any, shape: Items, place: str, line: int) -> None:
        if not isinstance(value, list) or len(value) < shape.least:
            return self._wrong(line, f"{place}: expected a list of {shape.least} or more")
        for index, inner in enumerate(value):
            self._check(inner, shape.item, f"{place}[{index}]", line)
        return None

    # Names and references

    @staticmethod
    def _by_kind(documents: list[Any]) -> dict[str, list[Any]]:
        return {kind: [doc for doc in documents if doc["kind"] == kind] for _, kind in SHAPES}

    def _check_names(self, documents: list[Any]) -> None:
        seen: dict[tuple[str, str], int] = {}
        for document in documents:
            key, line = (document["kind"], document["metadata"]["name"]), self.lines[id(document)]
            if key in seen:
                self._wrong(line, f"{key[0]} {key[1]} is already defined on line {seen[key]}")
            seen.setdefault(key, line)

    def _check_references(self, by_kind: Mapping[str, list[Any]]) -> None:
        names = {kind: {doc["metadata"]["name"] for doc in docs} for kind, docs in by_kind.items()}
        for doc in by_kind["Service"]:
            self._refer(doc, "spec.template.spec.serviceAccountName", "ServiceAccount", names)
        for doc in by_kind["Trigger"]:
            self._refer(doc, "spec.broker", "Broker", names)
            self._refer(doc, "spec.subscriber.ref.name", "Service", names)
            self._refer(doc, "spec.delivery.deadLetterSink.ref.name", "Service", names)
        for doc in by_kind["PingSource"]:
            self._refer(doc, "spec.sink.ref.name", "Service", names)

    def _refer(self, document: Any, place: str, kind: str, names: Mapping[str, set[str]]) -> None:
        value, line = document, self.lines[id(document)]
        for step in place.split("."):
            line = self._line_of(value, step, line)
            value = value[step]
        if value not in names[kind]:
            self._wrong(
                line, f"{place}: there is no {kind} {value!r}; known: {', '.join(sorted(names[kind])) or 'none'}"
            )

    # Meaning

    def _function(self, document: Any) -> Function:
        pod = document["spec"]["template"]["spec"]
        container = pod["containers"][0]
        plain = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        secrets = tuple(entry["name"] for entry in container["env"] if "valueFrom" in entry)
        if len(plain) + len(secrets) != len({*plain, *secrets}) or len(plain) + len(secrets) != len(container["env"]):
            self._wrong(self.lines[id(container["env"])], "each variable needs one value or valueFrom, and stands once")
        if len(pod["containers"]) != 1:
            self._wrong(self.lines[id(pod["containers"])], "a function is one container")
        self._check_source(plain, self.lines[id(container["env"])])
        return Function(
            name=document["metadata"]["name"],
            source=plain.get("FUNCTION_SOURCE", ""),
            target=plain.get("FUNCTION_TARGET", ""),
            timeout_s=float(pod["timeoutSeconds"]),
            concurrency=pod["containerConcurrency"],
            most_instances=self._whole_annotation(document["spec"]["template"], "autoscaling.knative.dev/maxScale", 1),
            environment=plain,
            secrets=secrets,
        )

    def _whole_annotation(self, annotated: Any, name: str, default: int) -> int:
        annotations = annotated.get("metadata", {}).get("annotations", {})
        text = annotations.get(name, str(default))
        if re.fullmatch(r"\d{1,4}", text) and int(text) >= default:
            return int(text)
        self._wrong(
            self._line_of(annotations, name, 1), f"{name}: {text!r} is not a whole number from {default} to 9999"
        )
        return default

    def _check_source(self, environment: Mapping[str, str], line: int) -> None:
        """The file is there, defines the target, and marks it as what the signature type says."""
        source, target = environment.get("FUNCTION_SOURCE", ""), environment.get("FUNCTION_TARGET", "")
        try:
            tree = ast.parse((self.root / source).read_bytes())
        except (OSError, SyntaxError) as error:
            return self._wrong(line, f"FUNCTION_SOURCE: {source!r} cannot be read: {type(error).__name__}")
        defined = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == target]
        if not defined:
            return self._wrong(line, f"FUNCTION_TARGET: {source} defines no function {target!r}")
        marks = {ast.unparse(decorator).rpartition(".")[2] for decorator in defined[0].decorator_list}
        expected = {"http": "http", "cloudevent": "cloud_event"}.get(environment.get("FUNCTION_SIGNATURE_TYPE", "http"))
        if marks & {"http", "cloud_event", "typed"} and expected not in marks:
            self._wrong(line, f"FUNCTION_SIGNATURE_TYPE does not fit {target} of {source}, which is {sorted(marks)}")
        return None

    def _trigger(self, document: Any, functions: Mapping[str, Function]) -> Trigger:
        spec = document["spec"]
        delivery, line = spec["delivery"], self.lines[id(spec["delivery"])]
        function = functions[spec["subscriber"]["ref"]["name"]]
        timeout_s, backoff_s = seconds(delivery["timeout"]), seconds(delivery["backoffDelay"])
        if timeout_s < function.timeout_s:
            own = f"{function.timeout_s:g} s of {function.name}"
            self._wrong(line, f"delivery.timeout: {timeout_s:g} s ends before the {own}; it would be delivered twice")
        if not 0 < backoff_s <= MOST_BACKOFF_S:
            self._wrong(line, f"delivery.backoffDelay: {backoff_s:g} s is not above 0 and at most {MOST_BACKOFF_S:g} s")
        return Trigger(
            name=document["metadata"]["name"],
            function=function.name,
            filter=spec.get("filter", {}).get("attributes", {}),
            retries=delivery["retry"],
            backoff_s=backoff_s,
            exponential=delivery["backoffPolicy"] == "exponential",
            timeout_s=timeout_s,
            path=spec["subscriber"].get("uri", "/"),
        )

    def _schedule(self, document: Any) -> Schedule:
        spec = document["spec"]
        schedule = Schedule(
            name=document["metadata"]["name"],
            cron=spec["schedule"],
            timezone=spec.get("timezone", "Etc/UTC"),
            body=spec.get("data", ""),
            content_type=spec.get("contentType", "application/json"),
            function=spec["sink"]["ref"]["name"],
            retries=self._whole_annotation(document, "rowdock.dev/gcp-max-retry-attempts", 0),
            path=spec["sink"].get("uri", "/"),
        )
        line = self.lines[id(spec)]
        if not _is_object(schedule.body or "{}"):
            self._wrong(
                self._line_of(spec, "data", line), "spec.data must be a JSON object: it is read as an event's data"
            )
        try:
            next(schedule.runs_after(datetime.datetime.now(datetime.UTC)))
        except (CronSimError, StopIteration) as error:
            why = str(error) or "it never comes"
            self._wrong(self._line_of(spec, "schedule", line), f"spec.schedule: {schedule.cron!r} is no time: {why}")
        except (KeyError, ValueError, OSError):
            problem = f"spec.timezone: {schedule.timezone!r} is not a time zone"
            self._wrong(self._line_of(spec, "timezone", line), problem)
        return schedule


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def seconds(duration: str) -> float:
    """Return the seconds of an ISO 8601 duration such as ``PT1M30S``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([HMS])", duration)
    return sum(float(number) * {"H": 3600, "M": 60, "S": 1}[unit] for number, unit in parts)
