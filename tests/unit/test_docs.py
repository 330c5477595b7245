"""What README, CONTRIBUTING and the pages promise about the repository is there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from shared import dictionary

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def fenced(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_make_command_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    named = set(re.findall(r"`make ([a-z]+)", text)) | set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE))
    assert named <= targets


def test_every_key_of_the_dictionary_is_explained() -> None:
    """And no key is explained that the dictionary does not know."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## The data dictionary")[2].partition("### Add")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert explained == dictionary.TABLE_KEYS | dictionary.COLUMN_KEYS


def test_explained_defaults_are_the_real_ones() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text()
    for name in ("identity_start", "max_record_bytes", "pending_days", "retention_days"):
        default = dictionary.Table.__dataclass_fields__[name].default
        assert f"| `{name}` | {default} |" in section


def test_the_example_of_a_new_table_is_one() -> None:
    """The entry in CONTRIBUTING is taken by the dictionary, beside the tables that are there, and its columns match."""
    entry = tomllib.loads(fenced(ROOT / "CONTRIBUTING.md", "toml")[0])
    present = tomllib.loads(dictionary.DICTIONARY_PATH.read_text())
    parsed = dictionary.parse({"tables": present["tables"] | entry["tables"]})
    migration = fenced(ROOT / "CONTRIBUTING.md", "sql")[0]
    for table in entry["tables"]:
        assert all(re.search(rf"^  {column.name} ", migration, re.MULTILINE) for column in parsed.tables[table].columns)
        assert f"rowdock.guard('{parsed.tables[table].schema}.{table}')" in migration


def test_every_case_of_a_strange_file_is_shown_by_tests_that_exist() -> None:
    """Each row of each table of the page names at least one."""
    page = (ROOT / "docs" / "ingest-cases.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("| ") and not row.startswith("| what comes |")]
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert len(rows) > 60
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rpartition(" | ")[2])
        assert named, f"no test shows {row}"
        assert set(named) <= there, f"{set(named) - there} shows {row}"


def test_every_decision_says_what_was_chosen_and_what_was_not() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert decisions
    for decision in decisions:
        text = decision.read_text()
        assert text.startswith(f"# {decision.name[:4]}: ")
        for part in ("Status: ", "## Chosen", "## Rejected", "## What would change our mind"):
            assert part in text, f"{decision.name} lacks {part!r}"
