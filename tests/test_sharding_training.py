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
from sharded_steps import Job, joined, trained
from small_dataset import small_experiment, write_dataset
from small_models import experiment_of
from torch import Tensor

from mdsrec.config.loading import experiment_from

SAMPLED = {"loss": "sampled", "num_negatives": 7}
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

Cases = dict[str, dict[str, Any]]
"""Sections that override those of `experiment_of`, by a name. `name` is that of the model."""

FEW: Cases = {
    "full loss": {},
    "full loss of cosines, kept centers, accumulation": {
        "model": COSINES | KEPT,
        "train": {"accumulation": 3},
    },
    "full loss, no item graph": {"model": NO_GRAPH},
    "sampled loss of cosines, accumulation": {
        "model": COSINES,
        "train": {**SAMPLED, "accumulation": 3},
    },
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
    for loss, train in (("full", {}), ("sampled", SAMPLED))
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
    for loss, train in (("full", {}), ("sampled", SAMPLED))
}
CLIPPED = {"gradient_clipping": 0.05}
IN_FLOAT32: Cases = {
    "the default": {},
    "ZeRO 1, clipping": {"train": {"zero_stage": 1}, "optim": CLIPPED},
    "ZeRO 2, sampled loss": {"train": {"zero_stage": 2, **SAMPLED, "accumulation": 3}},
    "clipping": {"optim": CLIPPED},
}
"""DeepSpeed partitions float32 only, and its norms are float32."""
HIDDEN: dict[str, Any] = {"model": {"item_mask": 0.4, "dropout": 0.3}}
"""Each rank draws masks of its own, so equal numbers of ranks are compared."""
BLOCKS = {"a rank without items": 32, "one rank with all items": 1024}
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


def jobs_of(root: Path, sharded: bool) -> dict[str, Job]:
    exact = {name: job_of(root, FEW[name], sharded=sharded) for name in FEW}
    rest = {
        name: job_of(root, IN_FLOAT32[name], sharded=sharded, precise=False) for name in IN_FLOAT32
    }
    return exact | rest


@pytest.fixture(scope="module")
def one_rank(root: Path) -> dict[str, list[Outcome]]:
    """Train on one rank that holds all items."""
    return outcomes(1, jobs_of(root, sharded=False))


@pytest.fixture(scope="module")
def three_ranks(root: Path) -> dict[str, list[Outcome]]:
    """Train on three ranks that own items."""
    jobs = jobs_of(root, sharded=True)
    jobs |= {name: job_of(root, {}, block=block) for name, block in BLOCKS.items()}
    jobs |= {fault: job_of(root, {}, fault=fault) for fault in FAULTS}
    hidden = {
        f"hidden, sharded: {sharded}": job_of(root, HIDDEN, sharded=sharded)
        for sharded in (True, False)
    }
    return outcomes(3, jobs | hidden)


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
    assert len(expected["losses"]) == 20
    assert not torch.equal(*(rank["losses"] for rank in three_ranks[name][:2]))  # other samples
    assert_same(three_ranks[name], [expected], 1e-9)


@pytest.mark.parametrize("name", BLOCKS)
def test_ranks_may_own_no_items(
    one_rank: dict[str, list[Outcome]], three_ranks: dict[str, list[Outcome]], name: str
) -> None:
    assert any(not len(rank["item_embedding weight"]) for rank in three_ranks[name])
    assert_same(three_ranks[name], one_rank["full loss"], 1e-9)


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_in_float32_they_agree_to_its_rounding(
    one_rank: dict[str, list[Outcome]], three_ranks: dict[str, list[Outcome]], name: str
) -> None:
    assert_same(three_ranks[name], one_rank[name], 1e-5, NOISE)


def test_with_random_masks_they_train_as_ranks_that_hold_all(
    three_ranks: dict[str, list[Outcome]],
) -> None:
    found, expected = (three_ranks[f"hidden, sharded: {sharded}"] for sharded in (True, False))
    assert_same(found, expected, 1e-9)
    with pytest.raises(AssertionError):
        assert_same(found, three_ranks["full loss"], 1e-2)  # masks do change it


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(
    one_rank: dict[str, list[Outcome]], three_ranks: dict[str, list[Outcome]], fault: str
) -> None:
    with pytest.raises(AssertionError):
        assert_same(three_ranks[fault], one_rank["full loss"], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [MANY, ALL_MODELS], ids=["keys", "models"])
def test_one_to_four_ranks_train_as_one_that_holds_all(root: Path, cases: Cases) -> None:
    jobs = {name: job_of(root, cases[name], sharded=False) for name in cases}
    expected = outcomes(1, jobs)
    for world_size in (1, 2, 3, 4):
        sharded = {name: job._replace(sharded=True) for name, job in jobs.items()}
        for name, ranks in outcomes(world_size, sharded).items():
            assert_same(ranks, expected[name], 1e-9)


@pytest.mark.slow
def test_one_to_four_ranks_with_random_masks(root: Path) -> None:
    for world_size in (1, 2, 3, 4):
        forms = {form: job_of(root, HIDDEN, sharded=form == "sharded") for form in FORMS}
        found = outcomes(world_size, forms)
        assert_same(found["sharded"], found["replicated"], 1e-9)


FORMS = ("sharded", "replicated")
