"""The comparison page shows the printed figures and the content of the runs' files."""

import re
from html import escape
from pathlib import Path

import numpy as np
import pytest
from evaluated_runs import (
    ROWS,
    ParsedPage,
    cases_by_rank,
    make_cases,
    run_metrics,
    write_run,
)
from small_dataset import NUM_ITEMS, NUM_USERS, small_experiment, write_dataset

from evaluation.compare import compare_runs
from evaluation.evaluated_run import EvaluatedRun, run_labels
from evaluation.metrics.bootstrap import Difference
from evaluation.metrics.run_metrics import Curve
from evaluation.report.charts import Learning, learning_panels_by_run, objective
from evaluation.report.differences import Differences, crossing_words
from evaluation.report.svg import Interval, interval_chart
from mdsrec import files, tables
from mdsrec.errors import InputError

BETTER = [(*row[:4], 0, 0) if row[3] == "all" else row for row in ROWS]


def write_files(tmp_path, name, rows, **contents):
    """Write a run with more JSON files in its folder (name: content) and return the folder."""
    folder = write_run(tmp_path, name, rows)
    for file, content in contents.items():
        files.write_json(f"{folder}/{file}.json", content)
    return folder


@pytest.fixture
def runs(tmp_path):
    config = {"name": "books-a", "seed": 1, "model": {"dim": 64, "rho": {"text": 1.0}}}
    other = {"name": "books-b", "seed": 1, "model": {"dim": 32, "rho": {}}}
    epoch = {"epoch": 0, "loss": 7.25, "ndcg@10": 0.02, "recall@10": 0.04}
    epochs = {"epochs": [epoch], "best_epoch": 0, "num_parameters": 1234}
    first = write_files(tmp_path, "books-a", ROWS, config=config, history=epochs)
    second = write_files(tmp_path, "books-b", BETTER, config=other, history=epochs)
    make_cases(*cases_by_rank(all=[1, 40, 9]), titles=("<i>One</i>",)).write(f"{first}/cases.json")
    make_cases(*cases_by_rank(all=[9, 3, 9]), titles=("<i>One</i>",)).write(f"{second}/cases.json")
    return [first, second]


def compare(folders, **options):
    """Return the printed text and the page."""
    screen = compare_runs(folders, **options)
    return screen, Path(screen.splitlines()[-1].split()[1]).read_text()


def cells(html):
    """Return the cells of all tables, by row."""
    return [
        re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", row)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    ]


def test_the_page_shows_the_printed_figures(runs):
    screen, html = compare(runs)
    rows = cells(html)
    _, table, differences, sentences, _ = screen.split("\n\n")
    for line in table.splitlines()[1:]:
        name, *figures = line.split()
        assert any(
            [row[0], *(c.split("\n")[0] for c in row[1:])] == [name, *figures] for row in rows
        )
    _, recall, ndcg = re.split(r"\s{2,}", differences.splitlines()[1])
    for metric, text in (("recall@10", recall), ("ndcg@10", ndcg)):
        mean, low, high, p = re.fullmatch(r"(\S+) \[(\S+), (\S+)\] p (.*)", text).groups()
        bounds = f"{low} to {high}".replace("0.", ".")
        assert ["b", metric, mean, bounds, p.replace("<", "&lt;")] in rows
        sentence = next(s for s in sentences.splitlines() if s.startswith(f"books-b: {metric} is "))
        assert " books-a" in sentence
        assert escape(sentence.replace("books-", "")) in html
    assert differences.split("\n")[0].startswith("difference to books-a  ")
    assert html.count("\n.0951\u2013.1049</td>") == 2


def test_the_page_shows_slices_curves_and_configuration_differences(runs):
    _, html = compare(runs)
    rows = cells(html)
    assert ["with text", "70", "0.6000", "0.6000"] in rows
    assert ["without text", "30", "-", "-"] in rows  # fewer than 50
    assert rows[rows.index(["key", "a", "b"]) + 1 :][:3] == [
        ["model.dim", "64", "32"],
        ["model.rho.text", "1.0", "-"],
        ["model.rho", "-", "{}"],
    ]
    assert not any(row[0] == "seed" for row in rows)
    for name in ("a", "b"):
        assert f"<title>{name}, 10: 0.05</title>" in html
        assert f"<title>{name}, 0: 7.25</title>" in html


def run_on_data(experiment, name, rows, **config):
    """Write an evaluated run beside the tables of the small data set."""
    changes = {
        "dataset": tables.open_table(tables.table_uri(experiment.root, "sequences")).fingerprint,
        "num_items": NUM_ITEMS,
        "slices": {"test": {}},
    }
    folder = write_run(Path(experiment.root, "runs"), name, rows, **changes)
    files.write_json(f"{folder}/config.json", config)
    return folder


def test_slices_belong_to_the_data_so_every_run_has_them(tmp_path):
    """Items 0 to 4 have no image. The second run's model and configuration know no modality."""
    experiment = small_experiment(tmp_path)
    write_dataset(experiment)
    targets = [(user, 3 + user % 4) for user in range(NUM_USERS)]
    rows = [
        (user, item, "test", channel, 0 if item > 4 else 99, 0)
        for user, item in targets
        for channel in ("all", "popularity")
    ]
    num_without = sum(item < 5 for _, item in targets)
    first = run_on_data(experiment, "a", rows * 2, features={"text": {}, "image": {}})
    second = run_on_data(experiment, "b", rows * 2, features={})
    _, html = compare([second, first])
    found = cells(html)
    assert "Slices belong to the data" in html
    assert ["without image", str(2 * num_without), "0.0000", "0.0000"] in found
    assert [
        "with image",
        str(2 * (NUM_USERS - num_without)),
        "1.0000",
        "1.0000",
    ] in found


def test_without_the_data_slices_are_those_that_each_run_stored(runs):
    _, html = compare(runs)
    assert "these slices are those that each run stored" in html


def curve(*recall):
    """Return recall at 1, 2, 3, 5, 7 and 10."""
    by_channel = {"all": list(recall), "popularity": [0.1] * 6}
    return Curve([1, 2, 3, 5, 7, 10], {"test": by_channel})


def test_a_run_that_is_better_at_10_and_worse_at_1_is_said_to_be(tmp_path):
    """The first run has half of the targets at rank 1; the second has all of them at rank 6."""
    first, second = (
        [
            (user, 0, "test", channel, better(user), 0)
            for user in range(40)
            for channel in ("all", "popularity")
        ]
        for better in (lambda user: 50 * (user % 2), lambda _: 5)
    )
    runs = [
        write_run(tmp_path, "base", first, curve=curve(*[0.5] * 6)),
        write_run(tmp_path, "deep", second, curve=curve(0, 0, 0, 0, 1, 1)),
    ]
    screen, html = compare(runs)
    sentence = next(line for line in screen.splitlines() if "the opposite" in line)
    assert sentence.startswith("deep: recall@1 says the opposite of recall@10. ")
    assert "recall@1 is worse than base by .5000" in sentence
    assert ", but recall@10 is better than base by .5000" in sentence
    assert sentence.endswith("The curves cross between N = 5 and N = 7.")
    assert html.count("recall@1 says the opposite of recall@10") == 2
    assert "the opposite" not in compare(runs[:1])[0]


def test_a_crossing_is_hinted_at_if_one_difference_is_unclear_and_not_said_if_both_are():
    names = ["recall@1", "recall@10"]
    clear, unclear = [0.01, 0.03], [-0.01, 0.03]
    runs = [run_metrics(curve=curve(*[0.1] * 6))] * 2

    def words(at_1, at_10):
        means, intervals = np.array([-0.02, 0.02]), np.array([at_1, at_10])
        found = Difference(means, intervals, np.array([0.01, 0.01]))
        return crossing_words(Differences(["a", "b"], [found], names, ["recall@10"]), runs)

    assert words(unclear, unclear) == []
    [sentence] = words(unclear, clear)
    assert sentence.startswith(
        "b: recall@1 hints at the opposite of recall@10. recall@1 is not clea"
    )


def test_losses_of_different_objectives_share_no_axis():
    epochs = {"epochs": [{"epoch": 0, "loss": 7.0, "ndcg@10": 0.1}]}
    config = {"seed": 0, "model": {"name": "mdsrec", "temperature": 0.12, "dim": 64}}
    configs = {
        "m0": config,
        "m1": {**config, "seed": 1, "optim": {"lr": 0.1}},
        "warm": {**config, "model": {"name": "mdsrec", "temperature": 1.0}},
        "sampled": {**config, "train": {"loss": "sampled"}},
        "sasrec": {**config, "model": {"name": "sasrec"}},
        "unknown": {},
    }
    html = learning_panels_by_run(
        [Learning(name, epochs, objective(each, name)) for name, each in configs.items()]
    )
    assert re.findall("<h3>(.*?)</h3>", html) == [
        "validation ndcg@10",
        "training loss of m0, m1",
        *(f"training loss of {name}" for name in ("warm", "sampled", "sasrec", "unknown")),
    ]


def test_the_page_shows_the_top_items_of_each_run_for_the_same_users(runs):
    _, html = compare(runs)
    panels = re.findall(
        r"<h3>(Target ranked higher by .)</h3>.*?target at (\d+).*?target at (\d+)", html
    )
    assert panels == [
        ("Target ranked higher by a", "1", "9"),
        ("Target ranked higher by b", "40", "3"),
    ]
    assert html.count("<p>&lt;i&gt;One&lt;/i&gt;</p>") == 2 * (1 + 1 + 1 + 1)


def test_cases_of_other_ranks_are_not_shown(runs):
    cases = Path(runs[1], "cases.json")
    files.write_json(str(cases), {**files.read_json(str(cases)), "ranks": "s" * 16})
    _, with_other_ranks = compare(runs)
    cases.unlink()
    _, without_cases = compare(runs)
    for html in (with_other_ranks, without_cases):
        assert "evaluate them again" in html
        assert "ranked higher" not in html


def test_the_page_needs_no_network_and_has_no_scripts(runs):
    _, html = compare(runs)
    parsed = ParsedPage(html)
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    assert not {name for name, _ in parsed.attributes} & {"src", "href", "srcset"}
    assert not re.search(r"@import|url\(|https?://", html)


def test_the_page_is_written_to_out_and_nothing_into_the_run_folders(runs, tmp_path):
    out = tmp_path / "talk" / "two.html"
    screen, _ = compare(runs, out=str(out))
    assert screen.splitlines()[-1] == f"page    {out}"
    assert out.exists()
    assert not list(tmp_path.rglob("comparison.html"))


def test_runs_without_history_or_configuration_have_a_page(tmp_path):
    _, html = compare([write_files(tmp_path, name, ROWS) for name in ("a", "b")])
    ParsedPage(html)
    assert "<h2>Training</h2>" not in html
    assert "Configuration differences" not in html


def test_a_run_without_test_events_is_not_compared(tmp_path):
    folder = write_files(tmp_path, "a", ROWS)
    path = Path(folder, "metrics.json")
    run_metrics("a", targets={"valid": 3, "test": 0}).write(str(path))
    with pytest.raises(InputError, match="there are no test events"):
        compare_runs([folder])


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["demo", "demo-id"], ["demo", "demo-id"]),
        (["x-y-a", "x-y-b-c"], ["a", "b-c"]),
        (["x-1", "x-1-b"], ["1", "1-b"]),
        (["same", "same"], ["0", "1"]),
        (["a-b"], ["a-b"]),
    ],
)
def test_labels_leave_out_the_leading_words_that_names_share(names, labels):
    runs = [
        EvaluatedRun(f"/r/{n}", run_metrics(name), {}, {}, None) for n, name in enumerate(names)
    ]
    assert run_labels(runs) == labels


def test_intervals_share_a_scale_with_a_mark_at_zero():
    both = [Interval("a", "series-0", -0.5, -1.0, 0.0), Interval("b", "series-1", 0.5, 0.0, 1.0)]
    svg = interval_chart(both, "label")
    ParsedPage(svg)
    ends = [tuple(map(float, e)) for e in re.findall(r'd="M([\d.]+) \d+H([\d.]+)"', svg)]
    [zero] = map(float, re.findall(r'class="mark" d="M([\d.]+) ', svg))
    assert ends[0][1] == ends[1][0] == zero
    assert ends[1][1] - zero == pytest.approx(zero - ends[0][0])
    assert interval_chart([], "label") == ""
