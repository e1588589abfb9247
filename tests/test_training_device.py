"""What a run records about the machine that made it."""

import logging
import os
import re
from datetime import UTC, datetime

import pytest
import torch

from mdsrec import __version__
from mdsrec.config import EvalConfig, Experiment
from training.device import origin, product_precision, warn_of_slow_offload


def test_a_run_records_date_version_and_machine():
    before = datetime.now(UTC).replace(microsecond=0)
    found = origin(torch.device("cpu"))
    assert before <= datetime.fromisoformat(found["date"]) <= datetime.now(UTC)
    assert found["version"] == __version__
    assert re.fullmatch(rf".+, {os.cpu_count()} cores, \d+ GiB", found["machine"])
    assert found["threads"] == torch.get_num_threads()


def test_ranking_has_larger_sizes_on_a_gpu_unless_they_are_set():
    by_device, given = EvalConfig(), EvalConfig(user_batch=7, item_block=16)
    assert (by_device.users_together, by_device.items_together) == (256, 1024)
    on_gpu = by_device.sized_for(gpu=True)
    assert (on_gpu.user_batch, on_gpu.item_block) == (2048, 65_536)
    assert by_device.sized_for(gpu=False) == EvalConfig(user_batch=256, item_block=1024)
    assert given.sized_for(gpu=True) == given.sized_for(gpu=False) == given


@pytest.mark.parametrize(
    ("precision", "matrices"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "high")]
)
def test_float32_products_are_exact_outside_of_a_step_that_allows_less(precision, matrices):
    with product_precision("tf32"), product_precision("fp32"):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    before = torch.get_float32_matmul_precision()
    with product_precision(precision):
        assert torch.get_float32_matmul_precision() == matrices
        assert torch.backends.cudnn.allow_tf32 == (precision != "fp32")
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("device", "offload", "threads", "warns"),
    [
        ("cuda", "optimizer", 7, True),
        ("cuda", "optimizer", 8, False),
        ("cuda", "none", 1, False),
        ("cpu", "optimizer", 1, False),
    ],
)
def test_few_threads_beside_a_gpu_are_named_where_adam_runs_on_them(
    caplog, device, offload, threads, warns
):
    content = {
        "name": "a",
        "root": "r",
        "input": {"edition": "2018", "reviews": ["x.json"]},
        "train": {"offload": offload, "zero_stage": 1},
    }
    with caplog.at_level(logging.WARNING, "training"):
        warn_of_slow_offload(Experiment.model_validate(content), torch.device(device), threads)
    assert len(caplog.messages) == warns
    assert not warns or "Adam runs on 7 CPU threads beside each GPU" in caplog.messages[0]
