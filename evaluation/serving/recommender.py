"""Recommendations from Python: a trained run, or an exported one, in one process.

model = Recommender.load("artifacts/demo/runs/demo")
model.recommend(["B00004", "B00017"], top=10, exclude_seen=True)
"""

import logging
from os import PathLike
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evaluation.serving import own_split
from evaluation.serving.histories import (
    KnownHistories,
    known_histories,
    padded_hint,
    unknown_text,
)
from evaluation.serving.lists import best_items, flat
from evaluation.serving.loading import Served
from evaluation.serving.one_thread import one_thread
from evaluation.stored.categories import check_is_one_of
from mdsrec.config.section import absolute, listed
from mdsrec.errors import InputError
from training.inference import ALL, MEMORY, SEEN

log = logging.getLogger("evaluation")


class Recommender:
    """A trained model that recommends items after any history of item ids.

    Lists and scores are, bit for bit, those that `python -m evaluation recommend` writes on the
    same kind of machine. Ids may be of any type and are read as text. Ids that the catalogue does
    not have are left out: one line of the log counts them, and so does
    `frame.attrs["unknown_ids"]`, id -> times.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self._trained, self._catalogue = served.trained, served.catalogue
        self.name = served.experiment.name
        with one_thread():
            self._item_vectors = self._trained.item_vectors()  # [K, X, D]
            self._lengths = self._item_vectors.norm(dim=-1).clamp_min(torch.finfo().tiny)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Self:
        """Load the run in ROOT/runs/NAME, or a folder that `python -m evaluation export` wrote."""
        with one_thread():
            return cls(Served.load(absolute(str(folder)).rstrip("/")))

    def __repr__(self) -> str:
        return f"<Recommender {self.name}: {len(self._catalogue):,} items, {listed(self.channels)}>"

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the channels that `similar` accepts."""
        return tuple(name for name in self._trained.channels if name != SEEN)

    @property
    def categories(self) -> list[str]:
        """Return the categories that `recommend` accepts; none if the input has none."""
        return self._catalogue.category_names

    @property
    def item_ids(self) -> list[str]:
        """Return the ids of all items, in the order of `item_vectors`."""
        return list(self._catalogue.item_of_id)

    def recommend(
        self,
        histories: Any,
        top: int = 10,
        exclude_seen: bool = False,
        category: str | None = None,
    ) -> pd.DataFrame:
        """Return the items with the highest scores after a history, best first.

        A history is a list of item ids, oldest first. Several are a list of lists, or a mapping of
        keys to lists; the column `history` then holds the position or the key. Columns: item_id,
        title, score, channel (the one that contributed most). Among several histories, those
        without a known item get no rows and are listed in `frame.attrs["empty_histories"]`; a
        single one is an InputError. With a `category` of the input, only its items are listed.
        """
        self._check_top(top)
        wanted = None if category is None else self._in_category(category)
        known = known_histories(histories, self._catalogue)
        settings = self._served.experiment.eval
        size = settings.users_together
        with one_thread():
            best = [
                best_items(
                    self._trained,
                    known.items[first : first + size],
                    top,
                    exclude_seen,
                    settings.items_together,
                    wanted,
                )
                for first in range(0, len(known.items), size)
            ]
        frame = self._named(flat(best, "items", np.int64), flat(best, "scores", np.float32))
        frame["channel"] = flat(best, "channels", object)
        if not known.is_one:
            lengths = [length for part in best for length in part.is_item.sum(axis=1)]
            each = zip(known.keys, lengths, strict=True)
            frame.insert(0, "history", [key for key, length in each for _ in range(length)])
        return _with_counts(frame, known)

    def similar(self, item_id: Any, top: int = 10, channel: str | None = None) -> pd.DataFrame:
        """Return the items most similar to an item, best first.

        The score is the cosine of their vectors in a channel of the model, by default the first. In
        the channel `memory` it is what an event of the item adds to the score of another.
        """
        self._check_top(top)
        name = self.channels[0] if channel is None else channel
        if name not in self.channels:
            raise InputError(f"channel {channel!r}: choose from {listed(self.channels)}")
        item = self._catalogue.item_of_id.get(str(item_id))
        if item is None:
            hint = padded_hint(str(item_id), self._catalogue)
            raise InputError(f"item {str(item_id)!r} is not in the catalogue of {self.name}{hint}")
        others, scores = self._similar(item, name)
        order = np.lexsort((others, -scores))[:top]
        frame = self._named(others[order], scores[order])
        return frame.assign(channel=name)

    def item_vectors(self) -> pd.DataFrame:
        """Return the vectors of all items: a row per item id, columns (channel, dimension).

        The inner product of a row with one of `user_vectors` is the score of the network.
        """
        return self._vector_frame(self._item_vectors.transpose(0, 1), self.item_ids, "item_id")

    def user_vectors(self, histories: Any) -> pd.DataFrame:
        """Return the vectors of histories, multiplied by the channels' weights.

        A row per history, columns as in `item_vectors`. What the memory and seen items add to a
        score is not in it.
        """
        known = known_histories(histories, self._catalogue)
        with one_thread():
            vectors_BKD = self._trained.user_vectors(known.items)
            vectors_BKD = vectors_BKD * self._trained.sums[ALL][: vectors_BKD.shape[1], None]
        frame = self._vector_frame(vectors_BKD, known.keys, "history")
        return _with_counts(frame, known)

    def evaluate(self, events: pd.DataFrame) -> pd.DataFrame:
        """Rank events of a split of one's own, as `python -m evaluation` ranks a run's.

        Columns of `events`: user_id, item_id; `time` (numbers, timestamps or ISO 8601; optional:
        else the order of the rows);
        `split` (optional): events of valid and test are ranked after all earlier events of the
        user, those of train are only history. Without it each user's last event is test.
        Returns mean and 95% interval by split, channel and metric, as in metrics.json;
        `frame.attrs["targets"]` counts the ranked events by split.
        """
        with one_thread():
            metrics, unknown = own_split.evaluate(self._served, events)
        if unknown:
            log.warning("%s", unknown_text(unknown))
        frame = own_split.as_frame(metrics)
        frame.attrs = {"targets": metrics.targets, "unknown_ids": dict(unknown)}
        return frame

    def _check_top(self, top: int) -> None:
        if not isinstance(top, int | np.integer) or isinstance(top, bool):
            raise InputError(f"top = {top!r}: expected a whole number, as in top=10")
        if not 1 <= top <= len(self._catalogue):
            raise InputError(f"top = {top}: choose 1 to {len(self._catalogue):,}, all items")

    def _in_category(self, category: str) -> Tensor:
        """Return which items are of the category -> bool [X]."""
        given = f"category {category!r}"
        if not self.categories:
            raise InputError(f"{given}: the items of {self.name} have no categories")
        check_is_one_of(given, category, self.categories)
        return torch.from_numpy(self._catalogue.in_category(category))

    def _named(self, items: Any, scores: Any) -> pd.DataFrame:
        columns = {
            "item_id": self._catalogue.item_ids.take(items).to_pandas(),
            "title": self._catalogue.titles.take(items).to_pandas(),
            "score": scores,
        }
        return pd.DataFrame(columns)

    def _similar(self, item: int, channel: str) -> tuple[Any, Any]:
        """Return other items, and their similarity to `item` in a channel."""
        if channel == MEMORY:
            assert self._trained.memory is not None
            terms = self._trained.memory.terms
            row = slice(*terms.starts[[item, item + 1]])
            others = terms.columns[row].astype(np.int64)
            scores = terms.weights[row]
        else:
            place = self.channels.index(channel)
            with one_thread():
                vectors_XD, lengths_X = self._item_vectors[place], self._lengths[place]
                cosines = vectors_XD @ vectors_XD[item] / (lengths_X * lengths_X[item])
            others, scores = np.arange(len(cosines), dtype=np.int64), cosines.numpy()
        return others[others != item], scores[others != item]

    def _vector_frame(self, vectors: Tensor, index: list[Any], name: str) -> pd.DataFrame:
        """Return vectors [n, K, D] as a frame with columns (channel, dimension)."""
        if self._trained.model is None:
            raise InputError(f"{self.name} has no network, so items and users have no vectors")
        num_channels, dim = vectors.shape[1:]
        columns = pd.MultiIndex.from_product(
            [self._trained.channels[:num_channels], range(dim)], names=["channel", "dimension"]
        )
        rows = vectors.flatten(1).numpy()
        return pd.DataFrame(rows, pd.Index(index, name=name), columns)


def _with_counts(frame: pd.DataFrame, known: KnownHistories) -> pd.DataFrame:
    frame.attrs = {
        "unknown_ids": dict(known.unknown_ids),
        "empty_histories": known.empty_histories,
    }
    return frame
