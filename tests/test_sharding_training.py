"""Ranks that own items train as one rank that holds all of them: the same losses, rows and moments.

The ranks compute different samples of each step. In float64 all of it agrees to 1e-9.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import on_ranks
from sharded_faults import FAULTS
from sharded_steps import ITEM_PARAMETERS, Job, joined, trained
from small_dataset import small_experiment, write_dataset
from small_models import experiment_of
from torch import Tensor

from mdsrec.config.loading import experiment_from

Cases = dict[str, dict[str, Any]]
"""Sections that override those of `experiment_of`, by a name. `name` is that of the model."""

SAMPLED = {"loss": "sampled", "num_negatives": 7}
FEW_STEPS = 8  # of the default tests; the slow ones take 20
LOSSES: Cases = {"full": {}, "sampled": SAMPLED}
COSINES = {"temperature": 0.1}
NO_CENTERS, KEPT = {"interest_centers": False}, {"center_refresh": 2}
NO_GRAPH = {"item_graph": False}
MODELS = (
    *("mdsrec", "sasrec", "gru4rec", "bert4rec", "missrec"),
    *("unisrec", "fdsa", "sasrecf", "gru4recf", "mmmlp"),
)
NOISE = ("key.bias", "attention.2.bias")
"""Parameters whose gradient is 0 but for rounding, whose sign decides Adam's step in float32: a
bias of keys, or of logits, adds one number to all logits of a softmax.
"""

FEW: Cases = {
    "full loss": {},
    "full loss of cosines, kept centers, accumulation": {
        "model": COSINES | KEPT,
        "train": {"accumulation": 3},
    },
    "full loss, no item graph": {"model": NO_GRAPH},
    "sampled loss of cosines": {"model": COSINES, "train": SAMPLED},
    "sampled loss, lazy Adam": {
        "model": NO_CENTERS,
        "train": SAMPLED,
        "optim": {"lazy_adam": True},
    },
    "missrec, two parameters with rows": {"name": "missrec"},
    "bert4rec, a rank without a masked event": {"name": "bert4rec"},
}
MANY: Cases = {
    f"{loss} loss, {model}, accumulation {parts}": {
        "model": model,
        "train": {**train, "accumulation": parts},
    }
    for loss, train in LOSSES.items()
    for model in (
        score | centers | graph
        for score in ({}, COSINES)
        for centers, graph in (({}, {}), (NO_CENTERS, {}), (KEPT, {}), ({}, NO_GRAPH))
    )
    for parts in (1, 3)
}
ALL_MODELS: Cases = {
    f"{name}, {loss} loss": {"name": name, "train": train}
    for name in MODELS
    for loss, train in LOSSES.items()
}
CLIPPED = {"gradient_clipping": 0.05}
FEW_STAGES: Cases = {
    f"ZeRO {stage}, clipping": {"train": {**SAMPLED, "zero_stage": stage}, "optim": CLIPPED}
    for stage in (0, 2)
}
STAGES: Cases = {
    f"ZeRO {stage}, {loss} loss, {optim}, accumulation {parts}": {
        "train": {**train, "zero_stage": stage, "accumulation": parts},
        "optim": optim,
    }
    for stage in (0, 1, 2)
    for loss, train in LOSSES.items()
    for optim in ({}, CLIPPED)
    for parts in (1, 3)
}
"""In float32: DeepSpeed partitions nothing else, and its norms are float32."""
HIDDEN: dict[str, Any] = {"model": {"item_mask": 0.4, "dropout": 0.3}}
"""Each rank draws masks of its own, so equal numbers of ranks are compared."""
FORMS = {"sharded": {"sharded": True}, "replicated": {"sharded": False}}
SHARES: dict[str, dict[str, Any]] = {
    "a rank without items": {"block": 32},
    "one rank with all items": {"block": 1024},
    "items in another order": {"placed": True},
}
Outcome = dict[str, Tensor]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_dataset(small_experiment(root))
    return root


def job_of(root: Path, sections: dict[str, Any], **keys: Any) -> Job:
    sections = {"name": "mdsrec", **sections}
    optim = sections.pop("optim", {})
    content = experiment_of(root, **sections).resolved()
    content["optim"] |= optim  # lazy Adam suits the model, not the small one of before
    return Job(experiment_from(content, source="test").resolved(), **keys)


def train_all(jobs: list[Job]) -> list[Outcome]:
    found = []
    for job in jobs:
        with FAULTS.get(job.fault, nullcontext)():
            found.append(trained(job))
    return found


def outcomes(world_size: int, jobs: dict[str, Job]) -> dict[str, list[Outcome]]:
    """Train every job on so many ranks -> what each rank has."""
    by_rank = on_ranks(world_size, train_all, list(jobs.values()))
    return {name: list(ranks) for name, *ranks in zip(jobs, *by_rank, strict=True)}


def few_jobs(root: Path, sharded: bool) -> dict[str, Job]:
    keys = {"sharded": sharded, "num_steps": FEW_STEPS}
    precise = {name: job_of(root, FEW[name], **keys) for name in FEW}
    keys["precise"] = False
    return precise | {name: job_of(root, FEW_STAGES[name], **keys) for name in FEW_STAGES}


@pytest.fixture(scope="module")
def one_rank(root: Path) -> dict[str, list[Outcome]]:
    """Train on one rank that holds all items."""
    three_steps = {"three steps": job_of(root, {}, sharded=False, num_steps=3)}
    return outcomes(1, few_jobs(root, sharded=False) | three_steps)


@pytest.fixture(scope="module")
def three_ranks(root: Path) -> dict[str, list[Outcome]]:
    """Train on three ranks that own items."""
    few, short = few_jobs(root, sharded=True), {"num_steps": 3}
    shares = {name: job_of(root, {}, **keys, **short) for name, keys in SHARES.items()}
    faults = {fault: job_of(root, {}, fault=fault, **short) for fault in FAULTS}
    hidden = {
        f"hidden, {form}": job_of(root, HIDDEN, **keys, **short) for form, keys in FORMS.items()
    }
    return outcomes(3, few | shares | faults | hidden)


def assert_same(
    found: list[Outcome], expected: list[Outcome], tolerance: float, noise: tuple[str, ...] = ()
) -> None:
    one, other = joined(found), joined(expected)
    assert one.keys() == other.keys()
    for name in other:
        if not any(word in name for word in noise):
            one_value, other_value = one[name], other[name]
            torch.testing.assert_close(
                one_value, other_value, atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("name", FEW)
def test_three_ranks_that_own_items_train_as_one_that_holds_all(
    one_rank: dict[str, list[Outcome]], three_ranks: dict[str, list[Outcome]], name: str
) -> None:
    [expected] = one_rank[name]
    assert len(expected["losses"]) == FEW_STEPS
    assert not torch.equal(*(rank["losses"] for rank in three_ranks[name][:2]))  # other samples
    assert_same(three_ranks[name], [expected], 1e-9)


@pytest.mark.parametrize("name", SHARES)
def test_ranks_may_own_no_items_and_any_items(
    one_rank: dict[str, list[Outcome]], three_ranks: dict[str, list[Outcome]], name: str
) -> None:
    first = three_ranks[name][0]["items"].tolist()
    assert not first or first != sorted(first)
    assert_same(three_ranks[name], one_rank["three steps"], 1e-9)


@pytest.mark.parametrize("name", FEW_STAGES)
def test_in_float32_they_agree_to_its_rounding(
    one_rank: dict[str, list[Outcome]], three_ranks: dict[str, list[Outcome]], name: str
) -> None:
    assert_same(three_ranks[name], one_rank[name], 1e-5, NOISE)


def test_with_hidden_items_they_train_as_ranks_that_hold_all(
    one_rank: dict[str, list[Outcome]], three_ranks: dict[str, list[Outcome]]
) -> None:
    found, expected = (three_ranks[f"hidden, {form}"] for form in FORMS)
    assert_same(found, expected, 1e-9)
    with pytest.raises(AssertionError):
        assert_same(found, one_rank["three steps"], 1e-2)  # something was hidden


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(
    one_rank: dict[str, list[Outcome]], three_ranks: dict[str, list[Outcome]], fault: str
) -> None:
    with pytest.raises(AssertionError):
        assert_same(three_ranks[fault], one_rank["three steps"], 1e-5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("placed", [False, True], ids=["in order", "in another order"])
@pytest.mark.parametrize("cases", [MANY, ALL_MODELS], ids=["keys", "models"])
def test_one_to_four_ranks_train_as_one_that_holds_all(
    root: Path, cases: Cases, placed: bool
) -> None:
    alone = {name: job_of(root, cases[name], sharded=False) for name in cases}
    sharded = {n: job._replace(sharded=True, placed=placed) for n, job in alone.items()}
    expected = outcomes(1, alone)
    for world_size in (1, 2, 3, 4):
        for name, found in outcomes(world_size, sharded).items():
            assert_same(found, expected[name], 1e-9)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_in_float32_losses_and_rows_of_one_to_four_ranks_agree_to_its_rounding(root: Path) -> None:
    cases = FEW | STAGES
    alone = {name: job_of(root, cases[name], sharded=False, precise=False) for name in cases}
    sharded = {name: job._replace(sharded=True) for name, job in alone.items()}
    expected = outcomes(1, alone)
    for world_size in (1, 2, 3, 4):
        for name, found in outcomes(world_size, sharded).items():
            kept = ("losses", *ITEM_PARAMETERS)
            rest = tuple(n for n in expected[name][0] if not n.startswith(kept))
            assert_same(found, expected[name], 1e-5, noise=rest)


@pytest.mark.slow
def test_with_hidden_items_one_to_four_ranks_train_as_ranks_that_hold_all(root: Path) -> None:
    for world_size in (1, 2, 3, 4):
        jobs = {form: job_of(root, HIDDEN, **keys) for form, keys in FORMS.items()}
        found = outcomes(world_size, jobs)
        assert_same(found["sharded"], found["replicated"], 1e-9)
