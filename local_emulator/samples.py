"""Sample files: departments, jobs and employees of any size, with a chosen share of each kind of bad row.

``python -m local_emulator.samples OUT_DIR --employees 5000000 --bad-share 0.01`` writes three CSV files and prints what
loading them must give. The same arguments give the same bytes on any machine: all chance comes from the raw stream of
PCG64, which NumPy promises never to change (its ``Generator`` methods carry no such promise).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Draws = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

BLOCK_ROWS = 1 << 15  # 2.5 MB of cells: stays in the second-level cache, and memory does not grow with the file
FIRST_DAY, DAYS = np.datetime64("2021-01-01"), 516  # up to 2022-05-31: one whole year and a part of the next
UNKNOWN_PARENT = 900_000_000  # added to a department's id: a parent that no generated file ever brings

FIRST_NAMES = [
    "Ada", "Agnes", "Albin", "Alma", "Amos", "Anders", "Anouk", "Arlo", "Astrid", "Barnaby", "Bea", "Bram", "Bruno",
    "Camille", "Carlo", "Cedric", "Clara", "Cosima", "Dario", "Delia", "Dora", "Edgar", "Edith", "Elias", "Elin",
    "Emil", "Enzo", "Esther", "Felix", "Fiona", "Flora", "Gideon", "Greta", "Gustav", "Hanna", "Hector", "Hugo",
    "Ida", "Igor", "Ines", "Ingrid", "Iris", "Ivo", "Jasper", "Joan", "Jonas", "Judith", "Kai", "Karin", "Lars",
    "Lena", "Leo", "Linus", "Lotte", "Mabel", "Marek", "Mina", "Nils", "Nora", "Olga", "Oscar", "Petra", "Quentin",
    "Rosa", "Silas", "Sven", "Tessa", "Theo", "Thora", "Ulla", "Vera", "Viktor", "Wanda", "Willem", "Yara", "Yves",
    "Zelda", "Zeno",
]  # fmt: skip
LAST_NAMES = [
    "Ashdown", "Bellweather", "Birkholt", "Blackmere", "Brandvold", "Brightley", "Calloway", "Carrowmore",
    "Coldbrook", "Cranfield", "Dahlgaard", "Dunmarrow", "Eastlake", "Ellerby", "Fairbourne", "Falkner", "Fenwright",
    "Garrowby", "Glenmoor", "Goldacre", "Greystoke", "Hallowell", "Harkness", "Hazelrigg", "Holmgren", "Inglewood",
    "Ironside", "Jessamine", "Kestrelby", "Kingsmead", "Lindqvist", "Lockhart", "Longmire", "Marchbank", "Merriden",
    "Millbrook", "Moorcroft", "Nethersole", "Nordhaus", "Oakhanger", "Orchardson", "O'Callow", "O'Merrin",
    "Pemberwick", "Penhallow", "Quarrington", "Quillfeather", "Ravensworth", "Redmayne", "Rookwood", "Saltmarsh",
    "Sandoval", "Silverton", "Stonebridge", "Summerlin", "Tannenberg", "Thistledown", "Thornbury", "Underhill",
    "Valdemarsen", "Vantongeren", "Wainscott", "Westergaard", "Whitlock", "Winterbourne", "Wolfhart", "Yarrowdale",
    "Zimmerhof",
]  # fmt: skip
DEPARTMENTS = [
    "Accounts", "Customer Care", "Data Platform", "Facilities", "Field Operations", "Internal Audit", "Logistics",
    "People", "Product Design", "Quality", "Security", "Workshop",
]  # fmt: skip
JOB_LEVELS = ["Trainee", "Junior", "Senior", "Principal", "Lead", "Deputy", "Chief", "Interim", "Associate", "Visiting"]
JOB_ROLES = [
    "Analyst", "Archivist", "Auditor", "Buyer", "Controller", "Coordinator", "Designer", "Dispatcher", "Editor",
    "Engineer", "Inspector", "Planner", "Programmer", "Recruiter", "Scheduler", "Statistician", "Technician",
    "Translator", "Welder",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class BadKind:
    """One kind of row that is not simply inserted.

    Attributes:
        outcome: the reason code of its reject, or ``"pending"``.
        about: what the row looks like.
    """

    outcome: str
    about: str


BAD_KINDS: Mapping[str, BadKind] = {
    "missing_name": BadKind("employee_name.missing", "the name is empty"),
    "missing_date": BadKind("hired_date.missing", "the date is empty"),
    "missing_department": BadKind("department_id.missing", "the department is empty"),
    "missing_job": BadKind("job_id.missing", "the job is empty"),
    "bad_date": BadKind("hired_date.not_timestamp", "the 30th of February"),
    "no_zone": BadKind("hired_date.no_zone", "a date and time without a zone"),
    "column_count": BadKind("record.column_count", "one field too few or one too many"),
    "not_integer": BadKind("department_id.not_integer", "a department such as 8.0"),
    "duplicate": BadKind("id.duplicate", "the id of an earlier good row with another name"),
    "stray_quote": BadKind("record.quote", "a quote that opens the name and never closes"),
    "unknown_parent": BadKind("pending", "a department that does not exist"),
}
REJECTED_KINDS = tuple(name for name, kind in BAD_KINDS.items() if kind.outcome != "pending")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to generate.

    Attributes:
        employees: rows of ``hired_employees.csv``.
        departments: rows of ``departments.csv``, ids from 1.
        jobs: rows of ``jobs.csv``, ids from 1.
        seed: the same seed and sizes give the same bytes.
        bad: share (0..1) of the employees' rows by kind, a key of ``BAD_KINDS``; together at most 1.
        header: whether each file starts with the column names.
        first_id: id of the first employee.
    """

    employees: int
    departments: int = 12
    jobs: int = 183
    seed: int = 1
    bad: Mapping[str, float] = field(default_factory=dict)
    header: bool = False
    first_id: int = 1

    def __post_init__(self) -> None:
        if unknown := set(self.bad) - set(BAD_KINDS):
            raise ValueError(f"unknown kind of bad row {min(unknown)!r}; known are {', '.join(BAD_KINDS)}")
        if min(self.bad.values(), default=0) < 0 or sum(self.bad.values()) > 1 + 1e-9:
            raise ValueError(f"shares of bad rows are 0 or more and at most 1 together, not {dict(self.bad)}")
        if min(self.departments, self.jobs, self.first_id) < 1 or self.employees < 0:
            raise ValueError("departments, jobs and first id are 1 or more, employees 0 or more")
        if self.first_id + self.employees > 2**31:
            raise ValueError(f"ids past {2**31 - 1} do not fit into the table's integer; ask for fewer employees")


@dataclass(frozen=True, slots=True)
class Expected:
    """What loading one file into an empty table must give, once the parents' files have been loaded.

    Attributes:
        file: name of the file.
        table: its key in the dictionary.
        size: bytes of the file.
        rows: data rows read; they add up to loaded + unchanged + rejected + pending.
        rejected: rows by reason code; every bad row here has one reason.
    """

    file: str
    table: str
    size: int
    rows: int
    loaded: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    unchanged: int = 0

    @property
    def rejects(self) -> int:
        """Rejected rows in all."""
        return sum(self.rejected.values())


def spread(share: float, kinds: tuple[str, ...] = REJECTED_KINDS) -> dict[str, float]:
    """Divide ``share`` (0..1) evenly over ``kinds``."""
    return {kind: share / len(kinds) for kind in kinds}


def write(directory: Path, plan: Plan) -> tuple[Expected, Expected, Expected]:
    """Write the three files of ``plan`` into ``directory``; return what departments, jobs and employees must give.

    Raises:
        OSError: the directory or a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return (
        _write_catalogue(directory / "departments.csv", "departments", "departments", department_names(plan), plan),
        _write_catalogue(directory / "jobs.csv", "jobs", "job", job_names(plan), plan),
        write_employees(directory / "hired_employees.csv", plan),
    )


def write_employees(path: Path, plan: Plan) -> Expected:
    """Write the employees of ``plan`` to ``path``, in constant memory.

    Raises:
        OSError: the file cannot be written.
    """
    tally: Counter[str] = Counter()
    with path.open("wb") as file:
        for block in employee_blocks(plan, tally):
            file.write(block)
        size = file.tell()
    rejected = {kind.outcome: tally[name] for name, kind in BAD_KINDS.items() if tally[name]}
    pending = rejected.pop("pending", 0)
    loaded = plan.employees - pending - sum(rejected.values())
    return Expected(path.name, "hired_employees", size, plan.employees, loaded, rejected, pending)


def department_names(plan: Plan) -> list[str]:
    """The departments in order of id."""
    return _numbered(DEPARTMENTS, plan.departments)


def job_names(plan: Plan) -> list[str]:
    """The jobs in order of id."""
    return _numbered([f"{level} {role}" for role in JOB_ROLES for level in JOB_LEVELS], plan.jobs)


def _numbered(names: list[str], count: int) -> list[str]:
    """``count`` different names: the list, then again with a number behind each."""
    return [names[i % len(names)] + (f" {i // len(names) + 1}" if i >= len(names) else "") for i in range(count)]


def _write_catalogue(path: Path, table: str, column: str, names: list[str], plan: Plan) -> Expected:
    lines = [f"id,{column}"] if plan.header else []
    lines += [f"{number},{name}" for number, name in enumerate(names, start=1)]
    size = path.write_bytes("\n".join(lines).encode())
    return Expected(path.name, table, size, len(names), len(names))


def employee_blocks(plan: Plan, tally: Counter[str]) -> Iterator[bytes]:
    """Yield the employees' file piece by piece, without a newline at its very end; count its bad rows in ``tally``."""
    cells = _Cells(plan)
    draw = np.random.PCG64(plan.seed).random_raw
    last_good = 0
    if plan.header:
        yield b"id,employee_name,hired_date,department_id,job_id" + (b"\n" if plan.employees else b"")
    for start in range(0, plan.employees, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, plan.employees - start)
        ids = np.arange(start, start + rows, dtype=np.int64) + plan.first_id
        draws: Draws = draw(2 * rows).reshape(rows, 2)
        kinds = _Kinds(plan, draws[:, 1])
        last_good = kinds.point_duplicates(ids, last_good)
        kinds.count(tally)
        block = cells.render(ids, draws, kinds)
        yield block[:-1] if start + rows == plan.employees else block


class _Kinds:
    """Which rows of a block are bad, and how.

    Args:
        plan: the shares.
        draws: one number for each row, of which the lower 32 bits decide.
    """

    def __init__(self, plan: Plan, draws: Draws) -> None:
        self.names = [name for name in BAD_KINDS if plan.bad.get(name)]
        shares = np.cumsum([plan.bad[name] for name in self.names])
        edges = np.array([round(share * 2**32) for share in shares.tolist()], dtype=np.uint64)
        self.numbers = np.searchsorted(edges, draws & np.uint64(0xFFFFFFFF), side="right")
        self.clean = len(self.names)

    def __getitem__(self, name: str) -> Flags:
        """The rows of kind ``name``."""
        if name not in self.names:
            return np.zeros(len(self.numbers), dtype=np.bool_)
        flags: Flags = self.numbers == self.names.index(name)
        return flags

    def point_duplicates(self, ids: Integers, last_good: int) -> int:
        """Give each duplicate, in ``ids``, the id of the last clean row before it; return the last clean id.

        A duplicate with no clean row before it is made clean: there is nothing it could repeat.
        """
        duplicates = self["duplicate"]
        good_ids = np.where(self.numbers == self.clean, ids, 0)
        if not last_good and duplicates.any():
            first = int(duplicates.argmax())
            if not good_ids[:first].any():
                self.numbers[first], good_ids[first], duplicates[first] = self.clean, ids[first], False
        before = np.maximum(np.maximum.accumulate(good_ids), last_good)
        ids[duplicates] = before[duplicates]
        return int(before[-1])

    def count(self, tally: Counter[str]) -> None:
        """Add the bad rows of this block to ``tally``."""
        counts = np.bincount(self.numbers, minlength=self.clean + 1)
        tally.update({name: int(counts[number]) for number, name in enumerate(self.names)})


class _Cells:
    """Lays out a block of lines in cells of fixed width, one line of cells for each row; a cell left 0 is dropped.

    Args:
        plan: the sizes, which fix the widths.
    """

    def __init__(self, plan: Plan) -> None:
        self.first, self.last = _texts([f"{name} " for name in FIRST_NAMES]), _texts(LAST_NAMES)
        days = [str(FIRST_DAY + day) + "T" for day in range(DAYS)]
        self.days = _texts([*days, "2021-02-30T"])
        self.seconds = _texts([f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}" for s in range(86400)])
        departments = range(1, plan.departments + 1)
        unknown = [str(UNKNOWN_PARENT + d) for d in departments]
        self.departments = _texts([*map(str, departments), *(f"{d}.0" for d in departments), *unknown])
        self.jobs = _texts([str(j) for j in range(1, plan.jobs + 1)])
        self.sizes = (plan.departments, plan.jobs)
        self.parts: dict[str, slice] = {}
        width = 0
        for name, size in self._widths():
            self.parts[name] = slice(width, width + size)
            width += size
        self.cells: Bytes = np.zeros((BLOCK_ROWS, width), dtype=np.uint8)

    def _widths(self) -> list[tuple[str, int]]:
        return [
            ("id", 10), ("comma1", 1), ("quote", 1),
            ("first", self.first.shape[1]), ("last", self.last.shape[1]), ("again", 3), ("comma2", 1),
            ("day", 11), ("second", 8), ("zone", 1), ("comma3", 1),
            ("department", self.departments.shape[1]), ("comma4", 1),
            ("job", self.jobs.shape[1]), ("extra", 2), ("end", 1),
        ]  # fmt: skip

    def render(self, ids: Integers, draws: Draws, kinds: _Kinds) -> bytes:
        """The lines of one block."""
        cells = self.cells[: len(ids)]
        part = {name: cells[:, where] for name, where in self.parts.items()}
        self._put_good(part, ids, draws, kinds)
        self._spoil(part, kinds)
        return bytes(cells[cells != 0])

    def _put_good(self, part: dict[str, Bytes], ids: Integers, draws: Draws, kinds: _Kinds) -> None:
        departments, jobs = self.sizes
        chance, instant = draws[:, 0], (draws[:, 1] >> 32) * (DAYS * 86400) >> 32
        department = _pick(chance, 32, departments)
        department += kinds["not_integer"] * departments + kinds["unknown_parent"] * (2 * departments)
        _put_digits(part["id"], ids)
        part["first"][:] = self.first[_pick(chance, 0, len(self.first))]
        part["last"][:] = self.last[_pick(chance, 16, len(self.last))]
        part["day"][:] = self.days[np.where(kinds["bad_date"], DAYS, (instant // 86400).astype(np.int64))]
        part["second"][:] = self.seconds[(instant % 86400).astype(np.int64)]
        part["department"][:] = self.departments[department]
        part["job"][:] = self.jobs[_pick(chance, 48, jobs)]
        part["zone"][:] = ord("Z")
        part["end"][:] = ord("\n")
        for comma in ("comma1", "comma2", "comma3", "comma4"):
            part[comma][:] = ord(",")

    def _spoil(self, part: dict[str, Bytes], kinds: _Kinds) -> None:
        odd = part["second"][:, 7] & 1 == 1
        part["quote"][:] = kinds["stray_quote"][:, None] * np.uint8(ord('"'))
        part["again"][:] = kinds["duplicate"][:, None] * np.frombuffer(b" II", dtype=np.uint8)
        part["extra"][:] = (kinds["column_count"] & odd)[:, None] * np.frombuffer(b",x", dtype=np.uint8)
        for flags, emptied in (
            (kinds["missing_name"], ("first", "last")),
            (kinds["missing_date"], ("day", "second", "zone")),
            (kinds["no_zone"], ("zone",)),
            (kinds["missing_department"], ("department",)),
            (kinds["missing_job"], ("job",)),
            (kinds["column_count"] & ~odd, ("comma4", "job")),
        ):
            for name in emptied:
                part[name][flags] = 0


def _texts(texts: list[str]) -> Bytes:
    """One line of cells for each text, as wide as the longest, filled up with 0."""
    cells = np.array([text.encode() for text in texts])
    return cells.view(np.uint8).reshape(len(texts), cells.itemsize)


def _pick(chance: Draws, shift: int, count: int) -> Integers:
    """Numbers 0..count-1 from 16 bits of ``chance`` (32 bits where ``count`` needs them)."""
    bits = 16 if count <= 4096 else 32
    drawn = (chance >> shift if bits == 16 else chance ^ (chance >> shift)) & ((1 << bits) - 1)
    return (drawn * count >> bits).astype(np.int64)


def _put_digits(cells: Bytes, numbers: Integers) -> None:
    """Write ``numbers`` (1 or more) in decimal into ``cells``, right-aligned; cells before the first digit become 0."""
    rest = numbers.astype(np.uint32)
    for place in range(cells.shape[1] - 1, -1, -1):
        rest, digit = np.divmod(rest, np.uint32(10))
        cells[:, place] = digit + 48
        cells[:, place] *= (digit + rest) > 0


def parse_shares(text: str) -> dict[str, float]:
    """Read ``missing_name=0.01,no_zone=0.002``.

    Raises:
        ValueError: a part is not of that form.
    """
    shares = {}
    for part in filter(None, text.split(",")):
        kind, equals, share = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not KIND=SHARE, such as missing_name=0.01")
        shares[kind.strip()] = float(share)
    return shares


def main(arguments: list[str] | None = None) -> int:
    """Write the files and print what loading them must give."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        bad = parse_shares(options.bad) if options.bad_share is None else spread(options.bad_share)
        plan = Plan(
            options.employees, options.departments, options.jobs, options.seed, bad, options.header, options.first_id
        )
    except ValueError as error:
        parser.error(str(error))
    expected = write(options.directory, plan)
    if options.json:
        json.dump([asdict(each) for each in expected], sys.stdout, indent=2)
        print()
    else:
        print(table(expected))
    return 0


def _parser() -> argparse.ArgumentParser:
    kinds = "\n".join(f"  {name:<19} {kind.about} ({kind.outcome})" for name, kind in BAD_KINDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m local_emulator.samples",
        description="Write departments.csv, jobs.csv and hired_employees.csv, and print what loading them must give.",
        epilog=f"kinds of bad row, each with the outcome it must have:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="where the three files go")
    add: Callable[..., Any] = parser.add_argument
    add("--employees", type=int, default=2000, metavar="N", help="rows of hired_employees.csv (default: %(default)s)")
    add("--departments", type=int, default=12, metavar="N", help="rows of departments.csv (default: %(default)s)")
    add("--jobs", type=int, default=183, metavar="N", help="rows of jobs.csv (default: %(default)s)")
    add("--seed", type=int, default=1, metavar="N", help="the same seed gives the same bytes (default: %(default)s)")
    add("--first-id", type=int, default=1, metavar="N", help="id of the first employee (default: %(default)s)")
    add("--header", action="store_true", help="start each file with the column names")
    add("--json", action="store_true", help="print the expected result as JSON")
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument("--bad", default="", metavar="KIND=SHARE,…", help="share (0..1) of the rows by kind")
    shares.add_argument("--bad-share", type=float, metavar="SHARE", help="spread over every kind that is rejected")
    return parser


def table(expected: tuple[Expected, ...]) -> str:
    """What loading the files must give, as text."""
    lines = [f"{'file':<20}{'rows':>9}{'loaded':>9}{'unchanged':>11}{'rejected':>10}{'pending':>9}"]
    for each in expected:
        counts = f"{each.rows:>9}{each.loaded:>9}{each.unchanged:>11}{each.rejects:>10}{each.pending:>9}"
        lines.append(f"{each.file:<20}{counts}")
        lines += [f"{'':<20}{'':>29}{count:>10}  {reason}" for reason, count in each.rejected.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
