"""An experiment's data and settings in the form that RecBole's SASRec needs.

RecBole needs a separate environment, whose interpreter `--python` names. `peer.py` runs there, on
files with one row per prefix of the tables' sequences.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.recbole import peer
from mdsrec import schema, tables
from mdsrec.command import add_experiment
from mdsrec.config import Experiment
from mdsrec.config.loading import load_experiment
from mdsrec.config.model_base import TransformerConfig
from mdsrec.config.models import SASRecConfig
from mdsrec.errors import InputError

PARTS = ("train", "valid", "test")
NAME = "split"
HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


class Row(NamedTuple):
    """An event of a part and the events before it."""

    part: str
    user: int
    history: list[int]
    target: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument(
        "--python", required=True, help="the interpreter of an environment with RecBole"
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")


def sasrec_overrides(config: str, overrides: Sequence[str]) -> list[str]:
    """Return overrides that turn the experiment into the common SASRec of the same size.

    Scores are inner products without a memory, and Adam has a constant rate.
    """
    experiment = load_experiment(config, overrides)
    if not isinstance(experiment.model, TransformerConfig):
        raise InputError(
            f"model.name = {experiment.model.name}: the model has no layers and heads to copy into "
            "SASRec: choose one that has"
        )
    sizes = experiment.model.model_dump(include=set(SASRecConfig.model_fields))
    sizes |= {"name": "sasrec", "temperature": 0.0, "memory": False}
    model = ", ".join(f"{key} = {json.dumps(value)}" for key, value in sizes.items())
    return [*overrides, f"model={{{model}}}", f"optim={{lr = {experiment.optim.lr}}}"]


def rows_of(experiment: Experiment) -> Iterator[Row]:
    """Yield every event that has one before it, by user, with its part of the split.

    Histories are cut to the last `max_length` events.
    """
    uri = tables.table_uri(experiment.root, "sequences")
    columns = ["user", "items", "train_end", "valid_end"]
    longest = experiment.network.max_length
    for batch in tables.read_table(uri, schema.SEQUENCES, columns).to_batches():
        for user, items, train_end, valid_end in zip(
            *(batch.column(name).to_pylist() for name in columns), strict=True
        ):
            for index in range(1, len(items)):
                part = PARTS[(index >= train_end) + (index >= valid_end)]
                yield Row(part, user, items[max(index - longest, 0) : index], items[index])


def write_split(experiment: Experiment, folder: Path) -> None:
    """Write RecBole's benchmark files NAME.PART.inter, and NAME.item with every item."""
    uri = tables.table_uri(experiment.root, "items")
    (folder / NAME).mkdir()
    items = "".join(f"{item}\n" for item in range(tables.open_table(uri).rows))
    (folder / NAME / f"{NAME}.item").write_text(f"item_id:token\n{items}")
    lines = {part: [HEADER] for part in PARTS}
    for row in rows_of(experiment):
        history = " ".join(map(str, row.history))
        lines[row.part].append(f"{row.user}\t{history}\t{row.target}\n")
    for part, of_part in lines.items():
        (folder / NAME / f"{NAME}.{part}.inter").write_text("".join(of_part))


def settings_of(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Return RecBole's settings for the experiment, a SASRec."""
    model, train = experiment.model, experiment.train
    assert isinstance(model, SASRecConfig)
    return {
        "dataset": NAME,
        "data_path": str(folder),
        "benchmark_filename": list(PARTS),
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"], "item": ["item_id"]},
        "alias_of_item_id": ["item_id_list"],
        "MAX_ITEM_LIST_LENGTH": model.max_length,
        "n_layers": model.num_layers,
        "n_heads": model.num_heads,
        "hidden_size": model.dim,
        "inner_size": model.inner_dim,
        "hidden_dropout_prob": model.dropout,
        "attn_dropout_prob": model.dropout,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "learning_rate": experiment.optim.lr,
        "train_batch_size": train.batch_size,
        "epochs": train.max_epochs,
        "stopping_step": train.patience - 1,  # RecBole stops after one epoch more
        "eval_args": {"order": "TO", "mode": "full"},
        "eval_batch_size": experiment.eval.users_together,
        "metrics": ["Recall", "NDCG"],
        "topk": sorted({10, *experiment.eval.cutoffs}),
        "valid_metric": "NDCG@10",
        "metric_decimal_place": 8,
        "seed": experiment.seed,
        "use_gpu": False,
        "show_progress": False,
    }


def run_recbole(
    python: str, method: str, settings: dict[str, Any], threads: int, **options: int
) -> Any:
    """Run a method of `peer.Peer` under that interpreter and return its result.

    InputError with the last line of its output if it fails.
    """
    command = [python, "-I", peer.__file__ or ""]
    request = {"method": method, "settings": settings, "threads": threads, **options}
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            cwd=settings["data_path"],  # RecBole writes its logs there
        )
    except OSError as error:
        raise InputError(f"--python {python}: cannot be run: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip() or "?").splitlines()[-1]
        raise InputError(f"--python {python}: RecBole failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])
