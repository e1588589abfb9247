"""The table `ranks` in parts of bounded size, each with all rows of its users.

A part is a file of the table, or at most PART_ROWS of its rows and those of one user more. The
actors that rank write files of a few thousand users, so a part is mostly a file.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mdsrec import files, parquet_groups, schema, tables
from mdsrec.arrays import Counts, Floats
from mdsrec.errors import InputError
from mdsrec.tables import READ_ERRORS, Manifest

PART_ROWS = 1 << 20
EVALUATE = "run `mdsrec evaluate CONFIG`"
NAMES = ["split", "channel"]
ENCODED = pa.schema(
    [
        field.with_type(pa.dictionary(pa.int32(), field.type)) if field.name in NAMES else field
        for field in schema.RANKS
    ]
)


class RankRows(NamedTuple):
    """Ranks of targets, by user, then time."""

    users: Counts
    targets: Counts
    better: Counts
    ties: Counts
    ranks: Floats


class RankPart:
    """All rows of some users, ordered by user; those of a user are in the order of the table.

    The columns NAMES are dictionary-encoded.
    """

    def __init__(self, rows: pa.Table) -> None:
        users = rows["user"].to_numpy()
        if (np.diff(users) < 0).any():
            rows = rows.take(np.argsort(users, kind="stable"))
        rows = rows.select(ENCODED.names).cast(ENCODED)
        self.rows = rows.unify_dictionaries().combine_chunks()
        self.users: Counts = self.rows["user"].to_numpy()

    def select(self, split: str, channel: str) -> RankRows:
        """Return the ranks of the targets of a split, as one channel ranks them."""
        chosen = self._equals("split", split) & self._equals("channel", channel)
        user, target, better, ties, rank = (
            self.rows[name].to_numpy()[chosen]
            for name in ("user", "target", "better", "ties", "rank")
        )
        return RankRows(user, target.astype(np.int64), better, ties, rank)

    def channels(self) -> list[str]:
        """Return the names of the channels, in the order of the table."""
        names: list[str] = self.rows["channel"].combine_chunks().dictionary.to_pylist()
        return names

    def split_last_user(self) -> tuple[Self | None, pa.Table]:
        """Return the rows of all users but the last (None without any), and those of the last."""
        start = int(np.searchsorted(self.users, self.users[-1]))
        return type(self)(self.rows[:start]) if start else None, self.rows[start:]

    def _equals(self, column: str, name: str) -> npt.NDArray[np.bool_]:
        codes = self.rows[column].combine_chunks()
        code = codes.dictionary.index(name).as_py()  # -1 without such a row
        equal: npt.NDArray[np.bool_] = codes.indices.to_numpy() == code
        return equal


def check_ranks(uri: str, manifest: Manifest, fingerprint: str) -> None:
    """Raise InputError if the table is not the one that a run's metrics.json was made from."""
    if manifest.fingerprint != fingerprint:
        raise InputError(
            f"{uri}: holds ranks {manifest.fingerprint[:8]}, but metrics.json beside it was made "
            f"from ranks {fingerprint[:8]}: an evaluation with other [eval] keys or weights runs, "
            f"or was stopped: {EVALUATE} again"
        )


def rank_parts(uri: str, fingerprint: str | None = None) -> Iterator[RankPart]:
    """Yield the table in parts, in order of their users.

    InputError if there is no table, if it does not have the `fingerprint`, or if the rows of a
    user are not together.
    """
    manifest, last_user = tables.open_table(uri, EVALUATE), None
    if fingerprint is not None:
        check_ranks(uri, manifest, fingerprint)
    for path, file in zip(tables.data_files(uri, manifest), manifest.files, strict=True):
        for part in _parts_of_file(uri, path, file.digests):
            if last_user is not None and part.users[0] <= last_user:
                raise InputError(f"{path}: its users are not in order: delete {uri} and {EVALUATE}")
            last_user = part.users[-1]
            yield part


def _parts_of_file(uri: str, path: str, digests: str | None) -> Iterator[RankPart]:
    """Yield a file in parts. The last user of a part that is not the last waits for the next."""
    waiting: list[pa.Table] = []
    for batch in _batches(uri, path, digests):
        if sum(rows.num_rows for rows in waiting) >= PART_ROWS:
            part, last = RankPart(pa.concat_tables(waiting)).split_last_user()
            waiting = [last]
            if part:
                yield part
        waiting.append(batch)
    if waiting:
        yield RankPart(pa.concat_tables(waiting))


def _batches(uri: str, path: str, digests: str | None) -> Iterator[pa.Table]:
    try:
        with parquet_groups.open_file(uri, path, digests, read_dictionary=NAMES) as file:
            for batch in file.iter_batches(PART_ROWS, columns=schema.RANKS.names):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])
    except InputError:
        raise
    except READ_ERRORS as error:
        message = files.first_line(error)
        raise InputError(f"{uri}: unreadable ({message}): {EVALUATE}") from None
