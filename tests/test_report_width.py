"""Nothing on a page is cut or scrolls at the width of a telephone or of a desktop, in Chromium."""

import numpy as np
import pytest
from browser import BROWSER, measure
from evaluated_runs import distinct_means, make_case, make_cases, run_metrics

from evaluation.evaluated_run import EvaluatedRun
from evaluation.metrics.bootstrap import difference
from evaluation.metrics.run_metrics import Curve
from evaluation.metrics.shared_slices import stored_slices
from evaluation.metrics.summary import CURVE
from evaluation.report.comparison import ComparisonData, comparison_page
from evaluation.report.differences import Differences
from evaluation.report.html import page
from evaluation.report.run_report import ReportData, report_page
from mdsrec.tables import Manifest
from tuning.report.page import all_trials, trials_table
from tuning.trials import METRIC, Trial

pytestmark = pytest.mark.skipif(not BROWSER, reason="Chromium is not installed")

WIDTHS = (390, 1280)
TITLE = "Polytetrafluoroethylene Thread Sealing Tape, 1/2-Inch x 520 Inches, Pack of 10"
CHANNELS = (*("all", "network", "fused", "text", "image", "memory"), *("popularity", "itemknn"))
METRICS = run_metrics(
    "industrial-and-scientific-mdsrec-clip-0",
    split={"test": {channel: distinct_means(0.1) for channel in CHANNELS}},
    curve=Curve(list(CURVE), {"test": {channel: [n / 200 for n in CURVE] for channel in CHANNELS}}),
    channel_weights=dict.fromkeys((*CHANNELS[2:6], "seen"), 1.5),
)
HISTORY = {
    "epochs": [{"epoch": e, "loss": 7.5, "ndcg@10": 0.02, "seconds": 9.0} for e in range(30)],
    "best_epoch": 2,
    "num_parameters": 5_600_000,
    "date": "2026-11-29T10:58:37+00:00",
    "version": "0.2.0",
    "machine": "NVIDIA H200 (140 GiB), Intel(R) Xeon(R) Platinum 8481C CPU, 16 cores, 128 GiB",
}
CONFIG = {
    "seed": 0,
    "model": {"name": "mdsrec", "modalities": ["text", "image"]},
    "input": {"reviews": [f"s3://a-bucket/{'a-folder/' * 9}reviews.json.gz"]},
}
LISTS = {channel: [0, 1, 2, 3, 0] for channel in CHANNELS[:6]}
RANK = dict.fromkeys(CHANNELS, 1234.5)
CASES = make_cases(make_case(7, 2, RANK, LISTS, (0, 1, 2, 3, 0, 1)), titles=(TITLE,) * 4)


def report():
    counters = {"kept weight": 61419.09108891413, **{f"a counter {n}": n for n in range(12)}}
    manifests = {"features/text": Manifest("f", 1234, (), counters=counters)}
    config = {"name": METRICS.name, **CONFIG}
    command = f"python -m cluster run {'a-long-folder/' * 9}scientific.toml name=other"
    data = ReportData(config, METRICS, HISTORY, manifests, [command], CASES, {})
    return report_page(data).replace("<details>", "<details open>")


def comparison(num_runs):
    names = [f"{model}-without-memory-{n}" for n, model in enumerate(["transitions"] * num_runs)]
    runs = [EvaluatedRun(name, run_metrics(name), HISTORY, CONFIG, CASES) for name in names]
    users, values = np.arange(99), np.random.default_rng(0).random((2, 99, 2))
    differences = Differences(
        names,
        [difference(users, *values)] * (num_runs - 1),
        ["recall@1", "recall@10"],
        ["recall@10"],
    )
    slices = stored_slices([run.metrics for run in runs])
    return comparison_page(ComparisonData(runs, differences, slices, True, [], {}))


def sweep():
    keys = ("model.num_neighbors", "model.num_centers", "model.temperature", "optim.lr")
    draws = np.random.default_rng(0).random((20, len(keys)))
    trials = [
        Trial(
            number,
            {},
            dict(zip(keys, values, strict=True)),
            state="finished",
            outcomes=[{METRIC: values[0], "epochs": 2, "seconds": 1.5, "run": f"r{number}"}],
        )
        for number, values in enumerate(draws.tolist())
    ]
    return page("sweep", [all_trials(trials), trials_table(trials, trials[0])])


def test_nothing_is_cut_or_scrolls(tmp_path):
    pages = {
        "report": report(),
        "two runs": comparison(2),
        "nine runs": comparison(9),
        "sweep": sweep(),
    }
    found = measure(pages, WIDTHS, tmp_path)
    assert len(found) == len(pages) * len(WIDTHS)
    assert {name: page["cut"] for name, page in found.items() if page["cut"]} == {}


def test_a_table_that_cannot_shrink_is_found(tmp_path):
    row = "<td style='white-space: nowrap'>one line that is much wider than a telephone</td>"
    wide = f"<main><table><tr>{row * 3}</tr></table></main>"
    found = measure({"wide": wide}, WIDTHS, tmp_path)
    assert found["wide at 390"]["cut"] and not found["wide at 1280"]["cut"]
