"""A check that the weights of a run fit a configuration, by name and shape."""

from collections.abc import Iterator
from typing import Any

from mdsrec.config import Experiment
from mdsrec.config.model_base import FeatureModelConfig
from mdsrec.errors import InputError
from training.warm.initial_weights import InitialWeights
from training.warm.source import SourceRun


def check_fits(source: SourceRun, target: InitialWeights) -> None:
    """Raise InputError that names the first weight of another shape, and the keys that differ.

    Of a weight with a row for each item, only the shape of a row counts.
    """
    found = source.weights.shapes
    _check_order(source, target.experiment)
    for name in sorted(found.keys() & target.shapes.keys()):
        wanted, start = target.shapes[name], int(name in target.item_parameters)
        if found[name][start:] != wanted[start:] or len(found[name]) != len(wanted):
            raise InputError(
                f"{source.uri}: {name} has shape {found[name]}, this configuration needs "
                f"{wanted}: {_reason(source.experiment, target.experiment)}"
            )
        num_items = source.items.manifest.rows
        if start and found[name][0] != num_items:
            raise InputError(
                f"{source.uri}: {name} has {found[name][0]:,} rows, but the run was trained on "
                f"{num_items:,} items"
            )


def _check_order(source: SourceRun, target: Experiment) -> None:
    """Raise InputError if weights that are numbered by modality belong to other ones."""
    if not isinstance(target.model, FeatureModelConfig):
        return
    before, now = source.experiment.modalities, target.modalities
    if any(old != new for old, new in zip(before, now, strict=False)):
        raise InputError(
            f"{source.uri}: its modalities are {list(before)}, here they are {list(now)}: "
            f"{target.model.name} numbers its weights by them: set model.modalities to the same "
            "order, new ones last"
        )


def _reason(source: Experiment, target: Experiment) -> str:
    """Return which keys of [model] differ, as text."""
    before, now = source.model.model_dump(mode="json"), target.model.model_dump(mode="json")
    differing = [
        f"model.{key} is {_text(before, key)} there and {_text(now, key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if not differing:
        differing = [*_other_encoders(source, target)] or ["its vectors have another width"]
    return "; ".join(differing)


def _other_encoders(source: Experiment, target: Experiment) -> Iterator[str]:
    """Yield which modalities have another encoder."""
    for name in target.modalities:
        before, now = source.features.get(name), target.features[name]
        if before is None or before.encoder != now.encoder:
            old = None if before is None else before.encoder
            yield f"features.{name}.encoder is {old} there and {now.encoder} here"


def _text(keys: dict[str, Any], key: str) -> str:
    return str(keys[key]) if key in keys else "not a key"
