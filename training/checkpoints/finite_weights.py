"""A check that all weights of a model are finite, which names the items of damaged rows."""

import torch
from torch import Tensor

from mdsrec.errors import InputError
from training.models.base import Model
from training.sharding.adam import rows_in_cache
from training.sharding.owners import Owners

NAMED = 5  # items of a message


def check_finite(model: Model, uri: str, owners: Owners | None = None) -> None:
    """Raise InputError if a weight is NaN or infinite. `uri` is the file that it was read from.

    With `owners` the model has the rows of own items; then it is collective, and every process
    raises the error.
    """
    for name, parameter in model.named_parameters():
        rows = damaged_rows(parameter.detach())
        if name in model.item_parameters and owners is not None:
            refuse_damaged(uri, name, *_of_all(rows + owners.shards.first, owners))
        else:
            refuse_damaged(uri, name, rows, len(rows), name in model.item_parameters)


def refuse_damaged(uri: str, name: str, rows: Tensor, count: int, are_items: bool = True) -> None:
    """Raise InputError if `count` rows of a weight are damaged; `rows` are the first of them."""
    if count:
        which = f" for {_items(rows[:NAMED], count)}" if are_items else ""
        raise InputError(f"{uri}: the weights are damaged: {name} is not finite{which}")


def damaged_rows(values: Tensor) -> Tensor:
    """Return the rows that are not finite, ascending."""
    found, first = [torch.empty(0, dtype=torch.int64)], 0
    for part in torch.split(values, rows_in_cache(values)) if values.numel() else ():
        is_finite = part.isfinite().flatten(1).all(1) if part.dim() > 1 else part.isfinite()
        found.append(first + (~is_finite).nonzero().squeeze(1).cpu())
        first += len(part)
    return torch.cat(found)


def _of_all(items: Tensor, owners: Owners) -> tuple[Tensor, int]:
    """Return the first damaged items of each process, and how many there are of all."""
    planner, first = owners.planner, items[:NAMED]
    count = sum(planner.gather_counts(len(items)))
    return planner.gather("damage", first, planner.gather_counts(len(first)))[:NAMED], count


def _items(first: Tensor, count: int) -> str:
    names = ", ".join(map(str, first.tolist()))
    more = f" and {count - len(first):,} more" if count > len(first) else ""
    return f"item {names}" if count == 1 else f"items {names}{more}"
