"""Metrics of a trained model on events of one's own."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_float_dtype, is_numeric_dtype

from evaluation.metrics.rank_parts import RankPart
from evaluation.metrics.run_metrics import RankMetrics
from evaluation.metrics.summary import SPLITS, summarize_parts
from evaluation.ranking import rank_targets, ranked_names
from evaluation.serving.histories import unknown_text
from evaluation.serving.loading import Served
from mdsrec import files
from mdsrec.errors import InputError
from training.data.sequences import Target

TRAIN = "train"
USERS_AT_ONCE = 4096


def targets_of(
    events: pd.DataFrame, item_of_id: dict[str, int]
) -> tuple[list[Target], Counter[str]]:
    """Return the events to rank, by user, then in order, and the unknown item ids.

    The history of an event is all that the user had before it. Users are in the order of their
    ids, as in a data set, so the same events give the same batches.
    """
    events = _in_order(events)
    items = events["item_id"].map(item_of_id)
    unknown = Counter(events["item_id"][items.isna()].tolist())
    events = events.assign(item=items)[items.notna()]
    targets = []
    for user, (_, rows) in enumerate(events.groupby("user_id", sort=True)):
        history, splits = rows["item"].to_numpy(np.int32), rows["split"].tolist()
        for place in range(1, len(history)):
            if splits[place] in SPLITS:
                target = int(history[place])
                targets.append(Target(user, splits[place], target, history[:place]))
    return targets, unknown


def _in_order(events: pd.DataFrame) -> pd.DataFrame:
    """Return the columns user_id, item_id and split as text, each user's events in order."""
    missing = [name for name in ("user_id", "item_id") if name not in events.columns]
    if missing:
        raise InputError(
            f"no column {missing[0]} among {list(events.columns)}: the columns are user_id, "
            "item_id, time (optional: else the order of the rows), split (optional: train, valid "
            "or test; else the last event of each user is test)"
        )
    for name in ("user_id", "item_id", "time"):
        if name in events.columns and (is_null := events[name].isna()).any():
            raise InputError(
                f"the column {name} has no value in {is_null.sum():,} of {len(events):,} rows, "
                f"first in row {int(is_null.argmax())}: leave them out, or fill them in"
            )
    if "time" in events.columns:
        events = events.sort_values("time", kind="stable", key=_as_times)
    users, items = _as_ids(events["user_id"]), _as_ids(events["item_id"])
    splits = _splits(events, users)
    return pd.DataFrame({"user_id": users, "item_id": items, "split": splits})


def _as_ids(column: pd.Series) -> pd.Series:
    """Return the ids as text. pandas makes whole numbers floats where one was missing before."""
    if is_float_dtype(column) and (column % 1 == 0).all():
        column = column.astype("int64")
    return column.astype(str)


def _as_times(column: pd.Series) -> pd.Series:
    """Return times that can be sorted: numbers and timestamps as they are, text as ISO 8601."""
    column = column.infer_objects()
    if is_numeric_dtype(column) or is_datetime64_any_dtype(column):
        return column
    try:
        return pd.to_datetime(column, format="ISO8601", utc=True)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"the column time: expected numbers, timestamps or ISO 8601: {files.first_line(error)}"
        ) from None


def _splits(events: pd.DataFrame, users: pd.Series) -> pd.Series:
    if "split" not in events.columns:
        is_last = ~users.duplicated(keep="last")
        return is_last.map({True: "test", False: TRAIN})
    wrong = ~events["split"].isin([TRAIN, *SPLITS])
    if wrong.any():
        raise InputError(f"split {events['split'][wrong].iloc[0]!r}: expected train, valid or test")
    return events["split"]


def evaluate(served: Served, events: pd.DataFrame) -> tuple[RankMetrics, Counter[str]]:
    """Rank the events of a split as `python -m evaluation` does, and count unknown item ids."""
    targets, unknown = targets_of(events, served.catalogue.item_of_id)
    if not targets:
        raise InputError(
            "no event can be ranked: a valid or test event of a known item needs an earlier "
            f"event of the same user{'; ' + unknown_text(unknown) if unknown else ''}"
        )
    settings = served.experiment.eval
    names = (*ranked_names(served.trained), *served.baselines)
    return summarize_parts(_ranked_parts(served, targets), names, settings.cutoffs, {}), unknown


def _ranked_parts(served: Served, targets: list[Target]) -> Iterator[RankPart]:
    """Yield the ranks of some users at a time."""
    users = np.array([target.user for target in targets])
    size = max(1, USERS_AT_ONCE // served.experiment.eval.users_together)
    size *= served.experiment.eval.users_together  # whole batches
    edges = np.searchsorted(users, np.arange(0, users[-1] + size, size))
    for first, last in zip(edges, [*edges[1:], len(users)], strict=True):
        if first < last:
            part = targets[first:last]
            rows = rank_targets(served.trained, served.baselines, part, served.experiment.eval)
            yield RankPart(rows)


def as_frame(metrics: RankMetrics) -> pd.DataFrame:
    """Return a row for each split, channel and metric, with its mean and 95% interval."""
    rows = [
        (split, channel, name, mean, *metrics.interval[split][channel][name])
        for split, channels in metrics.split.items()
        for channel, means in channels.items()
        for name, mean in means.items()
    ]
    columns = ["split", "channel", "metric", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3]).sort_index()
