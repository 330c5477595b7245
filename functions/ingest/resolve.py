"""Which lines of a block are a record of their own, which are joined into one, and which are none."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from functions.ingest.fields import LINE_FEED, Unread
from functions.ingest.lines import Lines
from functions.ingest.records import RecordReader, Verdict
from functions.ingest.window import Window
from shared.copy_binary import Ints, Mask

NO_ROWS: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a block, and what is known of them before the fields of most are judged.

    Attributes:
        starts, ends: ``(n,)``, where the text of each lies in the buffer, without its line end.
        line: ``(n,)``, the line of the block that each begins on, from 0.
        vector: records whose fields are judged all at once; None: all of them.
        verdicts: what the careful path says, by record.
        broken, miscounted, too_long: records that are rejected for their quotes, number of fields or length.
    """

    starts: Ints
    ends: Ints
    line: Ints
    vector: Ints | None = None
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    broken: Ints = field(default_factory=lambda: NO_ROWS)
    miscounted: Ints = field(default_factory=lambda: NO_ROWS)
    too_long: Ints = field(default_factory=lambda: NO_ROWS)


@dataclass(slots=True)
class _Read:
    """What the careful path read of a block's lines: ``verdicts`` by first line, ``ends`` of records of several lines.

    ``settled`` lines are decided; those from there on need more text than is in view.
    """

    settled: int
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    swallowed: list[range] = field(default_factory=list)


def resolve(
    reader: RecordReader, window: Window, lines: Lines, count: int, max_bytes: int, *, careful: bool
) -> tuple[Records, int]:
    """Find the records of ``lines``, which lie in ``window``.

    Args:
        count: fields that a record should have.
        max_bytes: length of the longest record.
        careful: read every record by the careful path.

    Returns:
        The records, and how many lines they settle: the rest is to be looked at again when more text is there.
    """
    total = len(lines.feeds)
    long = lines.feeds - lines.starts > max_bytes
    blank = _blank(reader, window, lines) if careful else lines.blank(window.array)
    if not careful and blank is None and lines.hard is None and lines.counts is None and not long.any():
        return Records(lines.starts, lines.ends, np.arange(total)), total
    blank = np.zeros(total, bool) if blank is None else blank
    hard = np.ones(total, bool) if careful else np.zeros(total, bool) if lines.hard is None else lines.hard
    broken = np.zeros(total, bool) if careful or lines.broken is None else lines.broken & ~long
    read = _read_hard(reader, window, lines, np.flatnonzero(hard & ~broken & ~blank & ~long), max_bytes)
    keep = ~blank
    keep[read.settled :] = False
    for lines_joined in read.swallowed:
        keep[lines_joined.start : lines_joined.stop] = False
    right = np.ones(total, bool) if lines.counts is None else lines.counts == count
    return _chosen(lines, np.flatnonzero(keep), read, hard, broken, long, right), read.settled


def _blank(reader: RecordReader, window: Window, lines: Lines) -> Mask:
    pairs = zip(lines.starts.tolist(), lines.feeds.tolist(), strict=True)
    return np.array([reader.is_blank(window.buffer[start:feed]) for start, feed in pairs], bool)


def _chosen(lines: Lines, kept: Ints, read: _Read, hard: Mask, broken: Mask, long: Mask, right: Mask) -> Records:
    ends = lines.ends[kept]
    for line, end in read.ends.items():
        ends[np.searchsorted(kept, line)] = end
    plain = ~(hard | long)[kept]
    return Records(
        lines.starts[kept],
        ends,
        kept,
        vector=np.flatnonzero(plain & right[kept]),
        verdicts={int(np.searchsorted(kept, line)): verdict for line, verdict in read.verdicts.items()},
        broken=np.flatnonzero(broken[kept]),
        miscounted=np.flatnonzero(plain & ~right[kept]),
        too_long=np.flatnonzero(long[kept]),
    )


def _read_hard(reader: RecordReader, window: Window, lines: Lines, hard: Ints, max_bytes: int) -> _Read:
    read = _Read(len(lines.feeds))
    if not len(hard):
        return read
    feeds, starts, ends = lines.feeds.tolist(), lines.starts.tolist(), lines.ends.tolist()
    whole_end = feeds[-1] + 1
    resume = 0
    for line in hard.tolist():
        if line < resume:
            continue
        start = starts[line]
        found = _record(reader, window, start, whole_end, max_bytes)
        if found is None:
            read.settled = line
            break
        end, verdict = found
        if end > feeds[line]:
            last = bisect_left(feeds, end)
            read.swallowed.append(range(line + 1, last + 1))
            read.ends[line], resume = ends[last], last + 1
        read.verdicts[line] = verdict or reader.broken(bytes(window.buffer[start : ends[line]]))
    return read


def _record(
    reader: RecordReader, window: Window, start: int, whole_end: int, max_bytes: int
) -> tuple[int, Verdict | None] | None:
    """Read the record at ``start``: the place of its line feed, and the verdict.

    Without a verdict its first line is to be rejected alone for its quotes: they are broken, or never closed, or it has
    several lines and breaks a rule. Without anything more text is needed than the whole lines in view.
    """
    limit = start + max_bytes + 1  # a line feed there ends a record of the greatest length
    found = reader.read(window.buffer, start, min(whole_end, limit))
    if found is Unread.OPEN and not window.at_end and window.stop < limit:
        return None
    if isinstance(found, Unread):
        return start, None
    end, fields = found
    if window.buffer[end] != LINE_FEED or end >= limit:
        return start, None
    raw = bytes(window.buffer[start:end]).removesuffix(b"\r")
    verdict = reader.judge_fields(raw, fields)
    if verdict.reasons and LINE_FEED in raw:
        return start, None
    return end, verdict
