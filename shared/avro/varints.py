"""AVRO's variable-length integers, many at a time, as little-endian words: byte 0 of a word is the first one written.

An integer is zigzag-coded (0, -1, 1, -2 → 0, 1, 2, 3), then cut into groups of seven bits, least first; all bytes but
the last have their high bit set (AVRO specification, "Binary Encoding").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.copy_binary import Bytes, Ints, Mask, Words, spans

WORD = 8
HIGH_BITS = np.uint64(0x8080808080808080)
ONE = np.uint64(1)
# By a number's length in bytes: the bits that say "another byte follows", of its first word.
GOES_ON = np.array([0x8080808080808080 & ((1 << 8 * max(n - 1, 0)) - 1) for n in range(11)], np.uint64)

SPREAD = (  # 56 bits into eight groups of seven, by halves: what stays, what moves, how far
    (0x000000000FFFFFFF, 0x00FFFFFFF0000000, 4),
    (0x00003FFF00003FFF, 0x0FFFC0000FFFC000, 2),
    (0x007F007F007F007F, 0x3F803F803F803F80, 1),
)
GATHER = (  # and back
    (0x007F007F007F007F, 0x7F007F007F007F00, 1),
    (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
    (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
)


@dataclass(frozen=True, slots=True)
class Part:
    """A few bytes of each row, eight at the most.

    Attributes:
        words: uint64 ``(n,)``, the bytes; what is beyond a row's length means nothing.
        lengths: bytes in each row, int64 ``(n,)``, or one number for all.
        longest: the greatest of ``lengths``.
    """

    words: Words
    lengths: Ints | int
    longest: int

    def only(self, there: Mask | None) -> Part:
        """No bytes where ``there`` is not set."""
        if there is None:
            return self
        return Part(self.words, np.where(there, self.lengths, 0), self.longest)


def zigzag(numbers: Ints) -> Words:
    """The zigzag code of each."""
    return ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)


def unzigzag(codes: Words) -> Ints:
    """The numbers again."""
    return (codes >> ONE).view(np.int64) ^ -(codes & ONE).view(np.int64)


def encoded(numbers: Ints) -> list[Part]:
    """The integers' bytes: one part, or two if any is longer than a word."""
    return encoded_codes(zigzag(numbers))


def encoded_codes(codes: Words) -> list[Part]:
    """The same of codes that are zigzag already."""
    if not len(codes):
        return [Part(codes, 1, 1)]
    shortest, longest = (_length(int(code)) for code in (codes.min(), codes.max()))
    lengths = _lengths(codes, shortest, longest)
    words = codes if longest == 1 else _spread(codes, longest)
    words = words | (GOES_ON[lengths] if shortest < longest else GOES_ON[longest])
    if longest <= WORD:
        return [Part(words, lengths, longest)]
    rest = np.maximum(lengths - WORD, 0) if shortest < longest else longest - WORD
    return [Part(words, np.minimum(lengths, WORD), WORD), Part(_last_groups(codes), rest, longest - WORD)]


def _length(code: int) -> int:
    return max(1, -(-code.bit_length() // 7))


def _lengths(codes: Words, shortest: int, longest: int) -> Ints | int:
    if shortest == longest:
        return longest
    lengths = np.full(len(codes), shortest, np.int64)
    for groups in range(shortest, longest):
        lengths += codes >= np.uint64(1 << 7 * groups)
    return lengths


def _spread(codes: Words, longest: int) -> Words:
    for stays, moves, far in SPREAD[1 if longest <= 4 else 0 :]:
        codes = (codes & np.uint64(stays)) | ((codes & np.uint64(moves)) << np.uint64(far))
    return codes


def _last_groups(codes: Words) -> Words:
    """Bits 56 to 63: a ninth byte of seven of them, and a tenth of the last."""
    ninth, tenth = (codes >> np.uint64(56)) & np.uint64(0x7F), codes >> np.uint64(63)
    return ninth | np.where(tenth, np.uint64(0x180), np.uint64(0))


def words_at(source: Bytes, places: Ints) -> Words:
    """The eight bytes from each place on."""
    return spans(source, WORD)[places].view("<u8")
