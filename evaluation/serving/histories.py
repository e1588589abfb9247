"""Histories of a caller: lists of item ids, which become items of the catalogue."""

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.serving.catalogue import Catalogue
from mdsrec.errors import InputError
from training.data.sequences import History

log = logging.getLogger("evaluation")

SHOWN_IDS = 3  # in a log line


@dataclass
class KnownHistories:
    """Histories with a known item, and counts of what was left out."""

    keys: list[Hashable] = field(default_factory=list)  # of each history
    items: list[History] = field(default_factory=list)
    unknown_ids: Counter[str] = field(default_factory=Counter)  # not in the catalogue
    empty_histories: list[Hashable] = field(default_factory=list)  # keys, without a known item
    is_one: bool = False  # the caller gave one history, not a list of them

    def add(self, key: Hashable, ids: Iterable[Any], catalogue: Catalogue) -> None:
        """Add a history, without the ids that the catalogue does not have."""
        texts = [str(each) for each in ids]
        known = [catalogue.item_of_id.get(text) for text in texts]
        self.unknown_ids.update(t for t, item in zip(texts, known, strict=True) if item is None)
        items = [item for item in known if item is not None]
        if items:
            self.keys.append(key)
            self.items.append(np.array(items, dtype=np.int32))
        else:
            self.empty_histories.append(key)

    def warn(self, catalogue: Catalogue) -> None:
        """Log in one line how much was left out, if anything was."""
        if self.unknown_ids:
            hint = padded_hint(next(iter(self.unknown_ids)), catalogue)
            log.warning("%s%s", unknown_text(self.unknown_ids), hint)
        if self.empty_histories:
            log.warning(
                "%d of %d histories have no known item and no recommendations",
                len(self.empty_histories),
                len(self.empty_histories) + len(self.keys),
            )


def unknown_text(unknown: Counter[str]) -> str:
    """Return one line about ids that were left out, and how many events had them."""
    first = ", ".join(map(repr, list(unknown)[:SHOWN_IDS]))
    more = ", ..." if len(unknown) > SHOWN_IDS else ""
    count, events = len(unknown), unknown.total()
    ids, are, were = ("id", "is", "was") if count == 1 else ("ids", "are", "were")
    times = f" ({events:,} events)" if events > count else ""
    return (
        f"{count:,} item {ids}{times} {are} not in the catalogue and {were} left out: {first}{more}"
    )


def padded_hint(item_id: str, catalogue: Catalogue) -> str:
    """Return a hint at an id of the same number with other zeros before it, or nothing."""
    number = item_id.lstrip("0")
    if not item_id.isdigit() or item_id in catalogue.item_of_id:
        return ""
    same = (other for other in catalogue.item_of_id if other.lstrip("0") == number)
    found = next(same, None)
    return "" if found is None else f"; there is {found!r}: ids are text"


def known_histories(histories: Any, catalogue: Catalogue) -> KnownHistories:
    """Return one history, whose key is 0, or several, in the order given.

    The keys of several are those of a mapping, or else their positions. InputError if there is one
    history and it has no known item.
    """
    found = KnownHistories()
    if not isinstance(histories, Mapping):
        histories = _as_list(histories)
        found.is_one = not any(map(_is_list, histories))
    if found.is_one:
        histories = {0: histories}
    keyed = histories.items() if isinstance(histories, Mapping) else enumerate(histories)
    for key, history in keyed:
        found.add(key, _as_list(history), catalogue)
    if found.is_one and found.empty_histories:
        raise InputError(_no_items_text(list(found.unknown_ids), catalogue))
    found.warn(catalogue)
    return found


def _is_list(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes)


def _as_list(history: Any) -> list[Any]:
    if not _is_list(history):
        raise InputError(f"history {history!r}: expected a list of item ids, as in ['B00004']")
    return list(history)


def _no_items_text(ids: list[str], catalogue: Catalogue) -> str:
    if not ids:
        return "the history is empty: give the item ids of at least one event"
    hint = padded_hint(ids[0], catalogue)
    return f"the history has no known item: {ids[0]!r} is not in the catalogue{hint}"
