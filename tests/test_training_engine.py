"""ZeRO stages, workers, accumulation and offloading never change the losses, and a checkpoint can
be resumed with any of them.

The model is small enough for plain torch to train it in a few lines. No size in it is a multiple of
2 or 3.
"""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import on_ranks
from safetensors.torch import load
from small_dataset import small_experiment, write_dataset
from torch import Tensor, distributed, nn

from mdsrec import schema, tables
from mdsrec.config import Experiment, OptimConfig
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from training.checkpoints.format import load_checkpoint, save_checkpoint
from training.checkpoints.weights import gather_weights
from training.data.item_tables import load_item_tables
from training.data.sequences import SequenceReader
from training.device import check_precision, has_bf16
from training.distributed import engine as ds
from training.distributed.engine_protocol import Engine
from training.distributed.schedule import FINAL, decay_end, rate_factor, schedule_after, schedule_of
from training.distributed.zero_state import full_shapes, held_state
from training.layers.transformer import Block
from training.models.base import Model
from training.models.mdsrec.model import MDSRec
from training.models.registry import build_model
from training.step import share_of, take_step

CPU = torch.device("cpu")
STAGES = (0, 1, 2, 3)
STEPS, FEW_STEPS = 50, 15
SAMPLES = 5  # in a step; with two ranks and three parts each, some parts have none
CLIP = 0.5
SCHEDULE: dict[str, Any] = {"warmup_steps": 4, "decay": "cosine", "decay_steps": 20}


class Regression(Model):
    """The summed squared error of a linear map of item vectors."""

    def __init__(self, num_items: int = 11) -> None:
        nn.Module.__init__(self)
        self.table = nn.Parameter(torch.empty(num_items, 5))
        self.map = nn.Linear(5, 3)
        generator = torch.Generator().manual_seed(7)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, items: Tensor, targets: Tensor) -> Tensor:
        error: Tensor = self.map(self.table[items]) - targets
        return error.square().sum()


def samples_of(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    items = torch.randint(11, (SAMPLES,), generator=generator)
    return items, torch.randn(SAMPLES, 3, generator=generator)


def plain_losses(num_steps: int, optim: dict[str, Any] | None = None) -> list[float]:
    """Return the loss of every step of plain torch."""
    model, config = Regression(), OptimConfig(**optim or {})
    adam = torch.optim.Adam(model.parameters())
    losses = []
    for step in range(num_steps):
        adam.param_groups[0]["lr"] = 0.01 * rate_factor(config, config.decay_steps, step)
        loss = model(*samples_of(step)) / SAMPLES
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    return losses


def experiment_of(stage: int, optim: dict[str, Any] | None = None, **train: Any) -> Experiment:
    train = {"zero_stage": stage, **train}
    return small_experiment(Path("/"), train=train, optim={"lr": 0.01, **(optim or {})})


Job = tuple[dict[str, Any], int, int, str, str]
"""Resolved experiment, first step, last step + 1, checkpoint to load, checkpoint to save."""


def job(experiment: Experiment, first: int, last: int, load: object = "", save: object = "") -> Job:
    return experiment.resolved(), first, last, str(load), str(save)


def losses_of_jobs(jobs: list[Job]) -> list[list[float]]:
    """Return this rank's part of the losses of each job's steps."""
    losses = []
    for resolved, first, last, source, target in jobs:
        experiment = experiment_from(resolved, source="test")
        engine = ds.initialize(Regression(), experiment, CPU)
        if source:
            assert load_checkpoint(engine, source) == {"next": first}
        parts = experiment.train.accumulation
        losses.append([take_plain_step(engine, step, parts) for step in range(first, last)])
        if target:
            Path(target).mkdir(exist_ok=True)
            save_checkpoint(engine, Path(target), {"next": last})
    return losses


def take_plain_step(engine: Engine[nn.Module], step: int, parts: int) -> float:
    """Take a step as `take_step` does, and return this rank's part of its loss."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    items, targets = samples_of(step)
    total = 0.0
    for part in range(parts):
        mine = slice(rank + part * world_size, None, parts * world_size)
        loss = engine(items[mine], targets[mine]) / SAMPLES
        engine.backward(loss * world_size, scale_wrt_gas=False)
        engine.step()
        total += float(loss.detach())
    return total


def sum_over_ranks(ranks: list[list[list[float]]]) -> list[list[float]]:
    """Return the losses of each job from the parts of all ranks."""
    return [
        [sum(parts) for parts in zip(*of_ranks, strict=True)]
        for of_ranks in zip(*ranks, strict=True)
    ]


OFFLOADED = {"offload": "optimizer"}
VARIANTS = {
    **{f"accumulation {s}": experiment_of(s, accumulation=3) for s in STAGES},
    **{f"offload {s}": experiment_of(s, **OFFLOADED) for s in (1, 2, 3)},
    **{f"offload, accumulation {s}": experiment_of(s, **OFFLOADED, accumulation=3) for s in (1, 2)},
    "all offloaded, accumulation 3": experiment_of(3, offload="all", accumulation=3),
}
GRADIENT_VARIANTS = {
    **{f"clipping {s}": experiment_of(s, {"gradient_clipping": CLIP}) for s in STAGES},
    **VARIANTS,
}
BF16 = experiment_of(2, precision="bf16" if has_bf16(CPU) else "fp32")
FIRST, SECOND = 15, 30  # steps at which the number of workers changes
MOVES = [(0, 0), (1, 1), (2, 2), (3, 3), (0, 3), (3, 2), (2, 1)]
"""Pairs of a ZeRO stage on two workers and then on one, and a stage on three in between."""
Losses = dict[Any, list[float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> Losses:
    """Losses on two workers, by stage, by variant, by move, and by stage after a resume."""
    jobs = {stage: job(experiment_of(stage, SCHEDULE), 0, STEPS) for stage in STAGES}
    jobs |= {name: job(variant, 0, FEW_STEPS) for name, variant in VARIANTS.items()}
    jobs |= {
        (a, b): job(experiment_of(a, SCHEDULE), 0, FIRST, save=folder / f"{a}-{b} first")
        for a, b in MOVES
    }
    jobs |= {
        f"resumed {s}": job(experiment_of(s, SCHEDULE), FIRST, STEPS, folder / f"{s}-{s} first")
        for s in STAGES
    }
    ranks = on_ranks(2, losses_of_jobs, list(jobs.values()))
    assert ranks[0][0] != pytest.approx(ranks[1][0])  # the ranks hold different samples
    return dict(zip(jobs, sum_over_ranks(ranks), strict=True))


@pytest.fixture(scope="module")
def moved(folder: Path, two_ranks: Losses) -> Losses:
    """Losses of each move, on two workers, then three, then one; and those in bfloat16."""
    second = [
        job(
            experiment_of(b, SCHEDULE),
            FIRST,
            SECOND,
            folder / f"{a}-{b} first",
            folder / f"{a}-{b} second",
        )
        for a, b in MOVES
    ]
    third = [
        job(experiment_of(a, SCHEDULE), SECOND, STEPS, folder / f"{a}-{b} second") for a, b in MOVES
    ]
    middles = sum_over_ranks(on_ranks(3, losses_of_jobs, second))
    *ends, bf16 = sum_over_ranks(on_ranks(1, losses_of_jobs, [*third, job(BF16, 0, FEW_STEPS)]))
    legs = zip(MOVES, middles, ends, strict=True)
    return {"bf16": bf16} | {move: two_ranks[move] + m + end for move, m, end in legs}


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_with_different_data_have_the_losses_of_plain_torch(
    two_ranks: Losses, stage: int
) -> None:
    assert two_ranks[stage] == pytest.approx(plain_losses(STEPS, SCHEDULE), abs=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_accumulation_and_offloading_have_the_losses_of_plain_torch(
    two_ranks: Losses, name: str
) -> None:
    assert two_ranks[name] == pytest.approx(plain_losses(FEW_STEPS), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES)
def test_two_then_three_then_one_workers_have_the_losses_of_plain_torch(
    moved: Losses, move: tuple[int, int]
) -> None:
    assert moved[move] == pytest.approx(plain_losses(STEPS, SCHEDULE), abs=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_losses_after_a_resume_on_as_many_workers_have_the_same_bits(
    two_ranks: Losses, stage: int
) -> None:
    assert two_ranks[(stage, stage)] + two_ranks[f"resumed {stage}"] == two_ranks[stage]


def facts_of_engines(folder: str) -> dict[str, Any]:
    """Return, on each of two ranks, what the tests below check about engines and checkpoints."""
    rank = distributed.get_rank()
    saved = Path(folder) / "2-2 first"
    zero3 = ds.initialize(Regression(), experiment_of(3, SCHEDULE), CPU)
    load_checkpoint(zero3, str(saved))
    zero0 = ds.initialize(Regression(), experiment_of(0), CPU)
    load_checkpoint(zero0, str(saved))
    other_model = ds.initialize(Regression(num_items=12), experiment_of(3), CPU)
    missing_on_rank_1 = Path(folder) / ("missing" if rank else ".")
    metadata = {"dataset": "d"}
    return {
        "rate": zero3.get_lr()[0],
        "weights": [weights_of(engine, metadata) for engine in (zero0, zero3)],
        "other model": error_of(lambda: load_checkpoint(other_model, str(saved))),
        "torn": error_of(lambda: load_checkpoint(zero3, str(saved.with_name("torn")))),
        "unwritable": error_of(lambda: save_checkpoint(zero3, missing_on_rank_1, {})),
        "gradients": {name: first_gradient(e) for name, e in GRADIENT_VARIANTS.items()},
    }


def weights_of(engine: Engine[Model], metadata: dict[str, str]) -> bytes | None:
    """Return the content of the file of weights; None on ranks that write none."""
    main = gather_weights(engine, metadata, "first").main
    return None if main is None else bytes(main.content)


def first_gradient(experiment: Experiment) -> Tensor:
    """Return the gradient of the first step: ten times Adam's first moment after it.

    The weights do not show it, because Adam's step does not depend on the gradient's scale.
    """
    engine = ds.initialize(Regression(), experiment, CPU)
    take_plain_step(engine, 0, experiment.train.accumulation)
    return torch.cat([10 * held_state(engine, name, "exp_avg") for name in full_shapes(engine)])


def error_of(action: Any) -> str:
    try:
        action()
    except (InputError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.fixture(scope="module")
def facts(folder: Path, two_ranks: Losses) -> list[dict[str, Any]]:
    torn = folder / "torn"
    torn.mkdir()
    for path in (folder / "2-2 first").iterdir():
        content = path.read_bytes()
        (torn / path.name).write_bytes(content[: -9 if "00001" in path.name else None])
    found: list[dict[str, Any]] = on_ranks(2, facts_of_engines, str(folder))
    return found


def test_a_resumed_run_continues_its_schedule(facts: list[dict[str, Any]]) -> None:
    rate = 0.01 * rate_factor(OptimConfig(**SCHEDULE), SCHEDULE["decay_steps"], FIRST)
    assert [rank["rate"] for rank in facts] == [rate, rate]


def test_the_weights_file_is_the_same_at_every_stage(facts: list[dict[str, Any]]) -> None:
    assert facts[0]["weights"][0] == facts[0]["weights"][1]
    assert facts[1]["weights"] == [None, None]  # only rank 0 has it
    shapes = {name: tuple(t.shape) for name, t in load(facts[0]["weights"][0]).items()}
    assert shapes == {"table": (11, 5), "map.weight": (3, 5), "map.bias": (3,)}


@pytest.mark.parametrize("name", GRADIENT_VARIANTS)
def test_adam_gets_the_global_gradient_clipped_as_torch_clips_it(
    facts: list[dict[str, Any]], name: str
) -> None:
    model = Regression()
    (model(*samples_of(0)) / SAMPLES).backward()
    clip = CLIP if name.startswith("clipping") else math.inf
    assert nn.utils.clip_grad_norm_(model.parameters(), clip) > 2 * CLIP
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    for rank in facts:
        torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-4, atol=1e-5)


def test_a_torn_file_is_refused_by_every_rank(facts: list[dict[str, Any]]) -> None:
    for rank in facts:
        assert "torn: not a complete checkpoint" in rank["torn"]


def test_a_checkpoint_of_another_model_is_refused(facts: list[dict[str, Any]]) -> None:
    for rank in facts:
        assert "the checkpoint has the parameters of another model" in rank["other model"]


def test_a_rank_that_cannot_write_does_not_make_the_others_wait(
    facts: list[dict[str, Any]],
) -> None:
    assert facts[0]["unwritable"] == ""
    assert facts[1]["unwritable"].startswith("FileNotFoundError")


def test_the_rate_rises_in_the_warmup_and_falls_to_its_final_value() -> None:
    def factors(steps: list[int], **optim: Any) -> list[float]:
        end = optim.get("decay_steps", 0)
        return [rate_factor(OptimConfig(**optim), end, step) for step in steps]

    assert factors([0, 1, 999]) == [1, 1, 1]
    assert factors([0, 1, 2, 3, 4, 999], warmup_steps=4) == [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]
    half = (1 + FINAL) / 2
    for decay in ("linear", "cosine"):
        values = factors([4, 12, 20, 999], warmup_steps=4, decay=decay, decay_steps=20)
        assert values == pytest.approx([1, half, FINAL, FINAL])
    (quarter,) = factors([5], decay="linear", decay_steps=20)
    assert quarter == pytest.approx(FINAL + (1 - FINAL) * 3 / 4)
    (quarter,) = factors([5], decay="cosine", decay_steps=20)
    assert quarter == pytest.approx(FINAL + (1 - FINAL) * (1 + math.cos(math.pi / 4)) / 2)


def test_a_decay_in_epochs_ends_after_their_steps(tmp_path: Path) -> None:
    optim = {"decay": "cosine", "decay_epochs": 3}
    experiment = small_experiment(tmp_path, optim=optim, train={"batch_size": 24})
    uri = tables.table_uri(experiment.root, "sequences")
    tables.write_table(uri, [], schema.SEQUENCES, tables.Recipe({}, {}), {"prefixes": 100})
    assert decay_end(experiment) == 3 * 5  # 100 prefixes in steps of 24
    few = small_experiment(tmp_path, optim={**optim, "warmup_steps": 50})
    assert decay_end(few) == 51  # after the warm-up


def test_a_schedule_resumed_after_n_steps_has_the_rates_of_one_that_took_them() -> None:
    config = OptimConfig(lr=0.003, **SCHEDULE)

    def new_adam() -> torch.optim.Adam:
        return torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=config.lr)

    adam = new_adam()
    schedule = schedule_of(adam, config, config.decay_steps)
    for step in range(25):
        resumed = new_adam()
        schedule_after(schedule_of(resumed, config, config.decay_steps), step)
        rates = [group["lr"] for optimizer in (adam, resumed) for group in optimizer.param_groups]
        assert rates == [config.lr * rate_factor(config, config.decay_steps, step)] * 2
        adam.step()
        schedule.step()


@pytest.mark.parametrize(
    ("stage", "optim", "train", "message"),
    [
        (
            0,
            {},
            {"offload": "optimizer"},
            "offload optimizer needs zero_stage 1 or more; zero_stage is 0",
        ),
        (2, {}, {"offload": "all"}, "offload all needs zero_stage 3 or more; zero_stage is 2"),
        (0, {"decay": "linear"}, {}, "decay linear needs decay_epochs or decay_steps"),
        (
            0,
            {"decay": "linear", "decay_steps": 9, "decay_epochs": 2},
            {},
            "not both: decay_epochs is 2 and decay_steps is 9",
        ),
        (
            0,
            {"decay": "linear", "decay_steps": 9, "warmup_steps": 9},
            {},
            "decay linear needs decay_steps above warmup_steps = 9",
        ),
        (0, {"decay_epochs": 9}, {}, "decay_epochs 9 needs a decay"),
        (0, {"decay_steps": 9}, {}, "decay_steps 9 needs a decay"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    stage: int, optim: dict[str, Any], train: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        experiment_of(stage, optim, **train)


def test_deepspeeds_configuration_has_offloading_only_if_it_is_set() -> None:
    def offload_keys(stage: int, **train: Any) -> set[str]:
        config = ds.deepspeed_config(experiment_of(stage, **train))
        return {key for key in config["zero_optimization"] if key.startswith("offload")}

    assert offload_keys(3) == set()
    assert offload_keys(1, offload="optimizer") == {"offload_optimizer"}
    assert offload_keys(3, offload="all") == {"offload_optimizer", "offload_param"}


def test_deepspeed_does_not_wait_for_a_gpu_to_time_a_step() -> None:
    assert ds.deepspeed_config(experiment_of(0))["timers"] == {"throughput": {"enabled": False}}


def test_tf32_is_refused_on_a_cpu() -> None:
    with pytest.raises(InputError, match=r"tf32: the cpu .* has no TensorFloat-32: set train\.pre"):
        check_precision(experiment_of(0, precision="tf32"), CPU)


def test_bf16_is_refused_on_a_device_that_would_emulate_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    bf16 = experiment_of(2, precision="bf16")
    with pytest.raises(InputError, match=r"the cpu of this machine has no bfloat16 instructions"):
        check_precision(bf16, CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    check_precision(bf16, CPU)


@pytest.mark.skipif(BF16.train.precision == "fp32", reason="this CPU has no bfloat16 instructions")
def test_bf16_trains_near_float32_on_a_device_that_has_it(moved: Losses) -> None:
    assert moved["bf16"] == pytest.approx(plain_losses(FEW_STEPS), rel=2e-2)
    assert moved["bf16"] != pytest.approx(plain_losses(FEW_STEPS), rel=1e-5)


def first_steps(experiments: list[dict[str, Any]]) -> list[list[Tensor]]:
    """Return MDSRec's losses in the first step, the gradient of that step, and the losses after."""
    found = []
    for resolved in experiments:
        experiment = experiment_from(resolved, source="test")
        model = MDSRec(experiment, load_item_tables(experiment))
        model.initialize(experiment.seed)
        engine = ds.initialize(model, experiment, CPU)
        first, second, *_ = SequenceReader(experiment).steps(0)
        shares = [share_of(model, experiment, step, (0, 0), CPU) for step in (first, second)]
        before = take_step(engine, experiment, shares[0])
        gradient = 10 * held_state(engine, "item_embedding", "exp_avg")
        found.append([before, gradient, take_step(engine, experiment, shares[1])])
    return found


def test_a_step_in_three_parts_equals_the_step_in_one(tmp_path: Path) -> None:
    in_one = small_experiment(tmp_path)
    write_dataset(in_one)
    in_three = small_experiment(tmp_path, train={"accumulation": 3})
    ((one, three),) = on_ranks(1, first_steps, [in_one.resolved(), in_three.resolved()])
    assert one[1].abs().max() > 1e-3
    for found, expected in zip(three, one, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def leaves_and_blocks(experiments: list[dict[str, Any]]) -> list[list[list[str]]]:
    """Return the names of each model's ZeRO-3 leaves, and those of its transformer blocks."""
    from deepspeed.utils import get_z3_leaf_modules

    names = []
    for resolved in experiments:
        experiment = experiment_from(resolved, source="test")
        model = build_model(experiment, load_item_tables(experiment))
        engine = ds.initialize(model, experiment, CPU)
        leaves = get_z3_leaf_modules(engine.module)
        named = list(engine.module.named_modules())
        names.append(
            [
                [name for name, module in named if any(module is leaf for leaf in leaves)],
                [name for name, module in named if isinstance(module, Block)],
            ]
        )
    return names


@pytest.mark.slow
def test_every_transformer_block_is_a_leaf_of_zero_3(tmp_path: Path) -> None:
    for leaf in ds.LEAVES:
        module, _, name = leaf.rpartition(".")
        assert issubclass(getattr(import_module(module), name), Block)
    mdsrec = small_experiment(tmp_path, train={"zero_stage": 3})
    write_dataset(mdsrec)
    sizes = mdsrec.resolved()["model"]
    shared = {key: sizes[key] for key in ("dim", "max_length", "dropout")}
    own: dict[str, dict[str, int]] = {"missrec": {"num_centers": sizes["num_centers"]}}
    experiments = [mdsrec.resolved()]
    for name in ("sasrec", "bert4rec", "sasrecf", "fdsa", "unisrec", "missrec"):
        model = {"name": name, **shared, **own.get(name, {})}
        experiments.append({**mdsrec.resolved(), "model": model})
    (names,) = on_ranks(1, leaves_and_blocks, experiments)
    for leaves, blocks in names:
        assert leaves == blocks != []
