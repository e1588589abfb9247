"""The space of [tune] as Optuna distributions, and Optuna's parameters as values of the experiment.

A domain is one parameter: a number, or an index into the list of a choice. A simplex is one
parameter u in (0, 1) per name; the shares are -log u divided by their sum. If the u are uniform,
the shares are uniform on the simplex.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from mdsrec.config.tune import Domain

Space = Mapping[str, Domain]
Values = dict[str, Any]  # by the experiment's dotted keys
Params = dict[str, Any]

EDGE = 1e-9  # distance of u from 0 and 1, where -log u is infinite or 0
DIGITS = 6  # of drawn values


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the distribution of every parameter."""
    found: dict[str, BaseDistribution] = {}
    for key, domain in space.items():
        if domain.choice is not None:
            found[key] = IntDistribution(0, len(domain.choice) - 1)
        elif domain.simplex is not None:
            for name in domain.simplex:
                found[f"{key}/{name}"] = FloatDistribution(EDGE, 1 - EDGE)
        else:
            bounds = domain.uniform or domain.loguniform
            assert bounds
            found[key] = FloatDistribution(*bounds, log=domain.loguniform is not None)
    return found


def values_of(space: Space, params: Params) -> Values:
    """Convert Optuna's parameters to values of the experiment's keys."""
    values: Values = {}
    for key, domain in space.items():
        if domain.choice is not None:
            values[key] = domain.choice[params[key]]
        elif domain.simplex is not None:
            sizes = [-math.log(params[f"{key}/{name}"]) for name in domain.simplex]
            shares = [size / math.fsum(sizes) for size in sizes]
            values[key] = dict(zip(domain.simplex, rounded_shares(shares), strict=True))
        else:
            values[key] = float(f"{params[key]:.{DIGITS}g}")
    return values


def rounded_shares(shares: list[float]) -> list[float]:
    """Round shares to DIGITS. The largest absorbs the rounding error, so that they sum to 1."""
    rounded = [round(share, DIGITS) for share in shares]
    largest = max(range(len(rounded)), key=rounded.__getitem__)
    others = math.fsum(rounded[:largest] + rounded[largest + 1 :])
    rounded[largest] = round(1 - others, DIGITS)
    return rounded


def grid_points(space: Space) -> list[Values]:
    """Return every combination of the values; the last key changes fastest.

    Every domain must be finite. An empty space has one point: [{}].
    """
    return [
        dict(zip(space, chosen, strict=True))
        for chosen in product(*(finite_values(domain) for domain in space.values()))
    ]


def finite_values(domain: Domain) -> list[Any]:
    """Return the values of a choice, a grid or a simplex with steps."""
    if domain.simplex is not None:
        assert domain.steps
        return [
            dict(
                zip(domain.simplex, rounded_shares([n / domain.steps for n in parts]), strict=True)
            )
            for parts in _compositions(domain.steps, len(domain.simplex))
        ]
    return list(domain.grid if domain.grid is not None else domain.choice or ())


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write `total` as an ordered sum of `parts` numbers >= 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)
