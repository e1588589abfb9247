"""A space of [tune] as what optuna draws from, and what is drawn as values of the experiment.

A domain has a parameter of its own: a number, or the place in its list. A simplex has one a name, u
in (0, 1): shares are -log u over their sum, uniform on the simplex where each u is.
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

EDGE = 1e-9  # of (0, 1), where log u is finite and not zero
DIGITS = 6


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Of every parameter of the domains."""
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
    """What the parameters mean."""
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
    """Shares of few digits that sum to 1; the largest takes what rounding left."""
    rounded = [round(share, DIGITS) for share in shares]
    largest = max(range(len(rounded)), key=rounded.__getitem__)
    others = math.fsum(rounded[:largest] + rounded[largest + 1 :])
    rounded[largest] = round(1 - others, DIGITS)
    return rounded


def points(space: Space) -> list[Values]:
    """Every combination of the finite domains' values, the last key the fastest; [{}] of none."""
    return [
        dict(zip(space, chosen, strict=True))
        for chosen in product(*(finite_values(domain) for domain in space.values()))
    ]


def finite_values(domain: Domain) -> list[Any]:
    """The values of a choice, a grid or a simplex with steps."""
    if domain.simplex is not None:
        assert domain.steps
        of_steps = _compositions(domain.steps, len(domain.simplex))
        return [
            dict(
                zip(domain.simplex, rounded_shares([n / domain.steps for n in parts]), strict=True)
            )
            for parts in of_steps
        ]
    return list(domain.grid if domain.grid is not None else domain.choice or ())


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write `total` as a sum of so many numbers from 0 on, in order."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)
