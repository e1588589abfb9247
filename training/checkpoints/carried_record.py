"""The record of weights that were carried from a trained run: in the metadata of their file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from mdsrec import files

CARRIED = "carried"  # in the metadata
DATASET = "dataset"


@dataclass(frozen=True)
class CarriedRecord:
    """The source of the weights, the tables that they fit, and what became of each row."""

    source: str  # URI of a run
    source_weights: str  # fingerprint, as reports show it
    source_mark: str  # of the file
    dataset: str  # fingerprint of the tables together
    tables: Mapping[str, str]  # fingerprints by name
    items_carried: int
    items_from_neighbors: int
    items_initial: int
    items_dropped: int  # which only the source has
    weights_carried: int  # without rows of items, by name
    weights_initial: list[str]
    weights_dropped: list[str]

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the file, in which `dataset` is as in that of other weights."""
        return {DATASET: self.dataset, CARRIED: json.dumps(asdict(self))}

    @classmethod
    def of(cls, metadata: Mapping[str, str], uri: str) -> Self:
        """Return the record of a file. InputError if the file has none."""
        return cls.from_fields(json.loads(metadata.get(CARRIED, "{}")), uri)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], uri: str) -> Self:
        """Return the record of a JSON file. InputError if it was edited."""
        return files.checked_fields(cls, fields, uri)

    @property
    def items_text(self) -> str:
        """Return `5,000 items carried, 120 from neighbors, 3 initial, 40 dropped`."""
        return (
            f"{self.items_carried:,} items carried, {self.items_from_neighbors:,} from neighbors, "
            f"{self.items_initial:,} initial, {self.items_dropped:,} dropped"
        )

    @property
    def weights_text(self) -> str:
        """Return `30 other weights carried, 1 initial (x), 0 dropped`."""
        parts = [f"{self.weights_carried} other weights carried"]
        for names, what in ((self.weights_initial, "initial"), (self.weights_dropped, "dropped")):
            named = f" ({_listed(names)})" if names else ""
            parts.append(f"{len(names)} {what}{named}")
        return ", ".join(parts)


def _listed(names: list[str], most: int = 5) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
