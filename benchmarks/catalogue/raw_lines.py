"""Raw lines of one length, put together column by column, so that numpy writes them.

A line is a row of bytes: constant parts, and fields of a fixed width.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.catalogue.events import Chunk
from etl.catalogue.amazon import ASIN, TICKS_PER_SECOND, TIME, USER
from etl.synthetic.vocabulary import MATERIALS, QUALITIES, TOPICS
from mdsrec.arrays import Counts

Bytes = npt.NDArray[np.uint8]
Part = bytes | Bytes  # the same in every line, or [n, width]

USER_DIGITS, ITEM_DIGITS, TIME_DIGITS = 12, 9, 15
TRIPLES = np.array([list(f"{number:03d}".encode()) for number in range(1000)], dtype=np.uint8)
SENTENCES = 1 << 10  # different texts of reviews


def joined(parts: Sequence[Part]) -> Bytes:
    """Return the lines [n, width]."""
    num_lines = next(len(part) for part in parts if not isinstance(part, bytes))
    widths = [len(part) if isinstance(part, bytes) else part.shape[1] for part in parts]
    kind: Any = np.dtype([(f"part{i}", f"V{width}") for i, width in enumerate(widths)])
    lines = np.empty(num_lines, kind)
    for name, width, part in zip(kind.names, widths, parts, strict=True):
        lines[name] = np.void(part) if isinstance(part, bytes) else _one_value_each(part, width)
    return lines.view(np.uint8).reshape(num_lines, sum(widths))


def _one_value_each(part: Bytes, width: int) -> Any:
    return np.ascontiguousarray(part).view(f"V{width}")[:, 0]


def digits(numbers: Counts, width: int) -> Bytes:
    """Return numbers in decimal with leading zeros; `width` is a multiple of 3."""
    parts = []
    for _ in range(width // 3):
        numbers, rest = np.divmod(numbers, 1000)
        parts.append(TRIPLES[rest])
    return np.concatenate(parts[::-1], axis=1)


class RawLines(NamedTuple):
    """The lines of an edition; a review has a text of `text_bytes` bytes, or none."""

    edition: str
    text_bytes: int = 0
    seed: int = 0

    def reviews(self, chunk: Chunk) -> Bytes:
        edition = self.edition
        users = np.repeat(chunk.users, chunk.lengths)
        times = digits(chunk.times * TICKS_PER_SECOND[edition], TIME_DIGITS)
        first = TIME_DIGITS - len(str(int(chunk.times[0]) * TICKS_PER_SECOND[edition]))
        return joined(
            [
                f'{{"{USER[edition]}": "A'.encode(),
                digits(users, USER_DIGITS)[:, ::-1],  # a sort sees the first 8 bytes: all differ
                f'", "{ASIN[edition]}": "B'.encode(),
                digits(chunk.items, ITEM_DIGITS),
                b'", ',
                *self._texts(chunk),
                f'"{TIME[edition]}": '.encode(),
                times[:, first:],  # JSON has no leading zeros
                b"}\n",
            ]
        )

    def records(self, items: Counts) -> Bytes:
        """Return the metadata of items; also a Python literal, as edition 2014 has them."""
        kind = np.random.default_rng([self.seed, int(items[0])]).integers(
            len(_DESCRIPTIONS.padded), size=len(items)
        )
        return joined(
            [
                f'{{"{ASIN[self.edition]}": "B'.encode(),
                digits(items, ITEM_DIGITS),
                b'", ',
                _DESCRIPTIONS.padded[kind],
                b"}\n",
            ]
        )

    def _texts(self, chunk: Chunk) -> list[Part]:
        if not self.text_bytes:
            return []
        rng = np.random.default_rng([self.seed, chunk.first_user, self.text_bytes])
        words = " ".join(w for topic in TOPICS for w in topic.words).encode()
        letters = np.frombuffer(words * (2 + self.text_bytes // len(words)), np.uint8)
        starts = np.arange(SENTENCES)[:, None] * 7 % len(words)
        sentences = letters[starts + np.arange(self.text_bytes)]
        chosen = rng.integers(SENTENCES, size=len(chunk.items))
        key = "text" if self.edition == "2023" else "reviewText"
        return [f'"{key}": "'.encode(), sentences[chosen], b'", ']


class _Descriptions:
    """Titles and descriptions of every kind of item, padded with spaces to one length."""

    @cached_property
    def padded(self) -> Bytes:
        found = []
        for topic, quality, material in product(TOPICS, QUALITIES, MATERIALS):
            for kind in topic.kinds:
                title = f"{quality} {material} {kind}"
                text = f"{title} for {' '.join(topic.words[:2])}"
                found.append(f'"title": "{title}", "description": ["{text}"]'.encode())
        width = max(map(len, found))
        return np.stack([np.frombuffer(line.ljust(width), np.uint8) for line in found])


_DESCRIPTIONS = _Descriptions()
