"""Where lines, records and fields are in a block of text, found for all lines at once.

Every line is looked at as if a record began there; what that cannot settle, lines with other than simple quotes, is
marked as hard and is for the careful path, which alone may join lines into one record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functions.ingest.fields import BLANK_BYTES, CARRIAGE_RETURN, LINE_FEED
from shared.copy_binary import Bytes, Ints, Mask

QUOTE, SPACE, TAB = 34, 32, 9


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of ``array[start:stop]``; all places are places in ``array``.

    Attributes:
        starts: ``(n,)``, the first byte of each line.
        feeds: ``(n,)``, its line feed.
        ends: ``(n,)``, the end of its text: the line feed, or the carriage return before it.
        marks: places of delimiters outside quotes, and of line feeds, in order.
        mark_of_feed: ``(n,)``, index in ``marks`` of each line's feed.
        counts: ``(n,)``, fields of each line; None where every line has as many as the dialect.
        hard: ``(n,)``, lines whose quotes are not simple; None for none. Their ``counts`` mean nothing.
        broken: ``(n,)``, those of the hard lines in which a quote certainly stands inside an unquoted field.
    """

    starts: Ints
    feeds: Ints
    ends: Ints
    marks: Ints
    mark_of_feed: Ints
    counts: Ints | None
    hard: Mask | None = None
    broken: Mask | None = None

    def blank(self, array: Bytes) -> Mask | None:
        """Mask of the lines that have nothing but blanks; None if there are none."""
        if self.counts is None and len(self.marks) > len(self.feeds):
            return None
        single = np.ones(len(self.feeds), bool) if self.counts is None else self.counts == 1
        if self.hard is not None:
            single &= ~self.hard
        rows = np.flatnonzero(single & (array[self.starts] <= SPACE))
        blank = np.zeros(len(self.feeds), bool)
        blank[rows] = self.starts[rows] == self.ends[rows]
        for row in rows[~blank[rows]].tolist():
            blank[row] = not array[self.starts[row] : self.ends[row]].tobytes().strip(BLANK_BYTES)
        return blank if blank.any() else None

    def fields(self, lines: Ints | None, count: int) -> tuple[list[Ints], list[Ints]]:
        """Starts and ends of the ``count`` fields of ``lines`` (None: all), each a list of ``(len(lines),)``.

        Quotes around a field still belong to it.
        """
        if lines is None:
            inner = [np.ascontiguousarray(self.marks[place::count]) for place in range(count - 1)]
            starts, ends = self.starts, self.ends
        else:
            first = self.mark_of_feed[lines] - (count - 1)
            inner = [self.marks[first + place] for place in range(count - 1)]
            starts, ends = self.starts[lines], self.ends[lines]
        return [starts, *[place + 1 for place in inner]], [*inner, ends]


def find(buffer: bytearray, array: Bytes, start: int, stop: int, delimiter: int, count: int) -> Lines:
    """The lines of ``array[start:stop]`` (a view of ``buffer``), which ends in a line feed.

    Args:
        delimiter: the byte that parts fields.
        count: fields that a record should have.
    """
    text = array[:stop]  # what is before ``start`` is zeros, so that places need no offset
    has_quotes = buffer.find(b'"', start, stop) >= 0
    marks = _places(text, (delimiter, LINE_FEED, QUOTE) if has_quotes else (delimiter, LINE_FEED))
    there = text[marks]
    if has_quotes:
        return _with_quotes(buffer, text, start, marks, there, count)
    if len(marks) % count == 0 and (there[count - 1 :: count] == LINE_FEED).all():
        mark_of_feed = np.arange(count - 1, len(marks), count)
        if np.count_nonzero(there == LINE_FEED) == len(mark_of_feed):
            return Lines(*_extents(buffer, text, start, marks[count - 1 :: count]), marks, mark_of_feed, None)
    mark_of_feed = np.flatnonzero(there == LINE_FEED)
    counts = np.diff(mark_of_feed, prepend=-1)
    return Lines(*_extents(buffer, text, start, marks[mark_of_feed]), marks, mark_of_feed, counts)


def _places(text: Bytes, wanted: tuple[int, ...]) -> Ints:
    """Where ``text`` has one of the bytes ``wanted``.

    numpy's nonzero takes three times as long where less than a tenth is set; a tail that is all set keeps it above.
    """
    tail = len(text) // 8 + 1
    mask = np.empty(len(text) + tail, bool)
    mask[len(text) :] = True
    found = np.equal(text, wanted[0], out=mask[: len(text)])
    for byte in wanted[1:]:
        found |= text == byte
    return np.flatnonzero(mask)[:-tail]


def _extents(buffer: bytearray, text: Bytes, start: int, feeds: Ints) -> tuple[Ints, Ints, Ints]:
    """Starts of the lines that end at ``feeds``, the feeds themselves, and the ends of the lines' text."""
    feeds = np.ascontiguousarray(feeds)
    starts = np.empty_like(feeds)
    starts[0], starts[1:] = start, feeds[:-1] + 1
    has_returns = buffer.find(b"\r", start, len(text)) >= 0
    return starts, feeds, feeds - (text[feeds - 1] == CARRIAGE_RETURN) if has_returns else feeds


def _with_quotes(buffer: bytearray, text: Bytes, start: int, marks: Ints, there: Bytes, count: int) -> Lines:
    is_quote, is_feed = there == QUOTE, there == LINE_FEED
    quotes_so_far = np.cumsum(is_quote)
    feed_at = np.flatnonzero(is_feed)
    starts, feeds, ends = _extents(buffer, text, start, marks[feed_at])
    quotes_in_line = np.diff(quotes_so_far[feed_at], prepend=0)
    before_line = quotes_so_far[feed_at] - quotes_in_line
    bad, broken = _bad_quotes(text, starts, marks, there, np.flatnonzero(is_quote), quotes_in_line, before_line)
    hard = bad | (quotes_in_line % 2 == 1)
    inside = (quotes_so_far - np.repeat(before_line, np.diff(feed_at, prepend=-1))) % 2 == 1
    keep = is_feed | ~(is_quote | inside)
    mark_of_feed = np.flatnonzero(is_feed[keep])
    counts = np.diff(mark_of_feed, prepend=-1)
    if not hard.any():
        even = bool((counts == count).all())
        return Lines(starts, feeds, ends, marks[keep], mark_of_feed, None if even else counts)
    return Lines(starts, feeds, ends, marks[keep], mark_of_feed, counts, hard, broken)


def _bad_quotes(
    text: Bytes, starts: Ints, marks: Ints, there: Bytes, quote_at: Ints, in_line: Ints, before_line: Ints
) -> tuple[Mask, Mask]:
    """Lines with a quote that neither begins nor ends a field; and those where the first one is inside a plain field.

    ``quote_at`` are indices of the quotes in ``marks``, ``there`` the bytes at ``marks``.
    """
    places = marks[quote_at]
    line = np.repeat(np.arange(len(in_line)), in_line)
    ordinal = np.arange(len(quote_at)) - before_line[line]
    opens = ordinal % 2 == 0
    # The first mark of the block has none before it; then the quote's own line begins the block.
    begins = (places == starts[line]) | ((marks[quote_at - 1] == places - 1) & (there[quote_at - 1] != QUOTE))
    following = marks[quote_at + 1]
    closes = (following == places + 1) & (there[quote_at + 1] != QUOTE)
    closes |= (following == places + 2) & (text[places + 1] == CARRIAGE_RETURN) & (there[quote_at + 1] == LINE_FEED)
    bad, broken = np.zeros(len(in_line), bool), np.zeros(len(in_line), bool)
    bad[line[~np.where(opens, begins, closes)]] = True
    before = text[places - 1]
    broken[line[(ordinal == 0) & ~begins & (before != SPACE) & (before != TAB)]] = True
    return bad, broken
