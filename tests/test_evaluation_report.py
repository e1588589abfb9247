"""A report page shows all figures of its inputs and needs no network."""

import re

import pytest
from evaluated_runs import (
    CHANNELS,
    CUTOFFS,
    PICTURE,
    ROWS,
    TEST_ALL,
    ParsedPage,
    distinct_means,
    make_case,
    make_cases,
    run_metrics,
    write_run,
)

from evaluation.compare import compare_runs
from evaluation.metrics.run_metrics import Curve, SliceMetrics
from evaluation.metrics.summary import CURVE
from evaluation.report.channels import channel_sentences
from evaluation.report.data_section import dotted_items
from evaluation.report.head import run_facts
from evaluation.report.run_report import ReportData, report_page
from evaluation.report.slices import slices_table
from evaluation.report.svg import Line, line_chart
from mdsrec import metrics
from mdsrec.errors import InputError
from mdsrec.tables import Manifest
from mdsrec.text import text_table

BEST_BY_TEXT = make_case(
    7,
    target=2,
    rank={"all": 2.0, "fused": 1234.5, "text": 1.0, "popularity": 9.0},
    top={"all": [3, 2, 0], "fused": [0, 1], "text": [2, 3]},
    history=(0, 1),
    neighbors={"text": [3]},
)


def report_data(name="books", **changes):
    epochs = [
        {
            "epoch": e,
            "loss": 7.5 - e,
            "ndcg@10": 0.02 * e,
            "seconds": 90.0,
            "prefixes_per_second": 1e3,
        }
        for e in range(3)
    ]
    fields = {
        "config": {"name": name, "model": {"dim": 300, "rho": {"text": 0.5}}},
        "metrics": run_metrics(name),
        "history": {"epochs": epochs, "best_epoch": 2, "num_parameters": 5_600_000},
        "manifests": {"items": Manifest("f", 1234, (), counters={"reasons": {"no_id": 17}})},
        "next_steps": ["python -m evaluation compare A B"],
        "cases": make_cases(BEST_BY_TEXT),
        "pictures": {"B2": PICTURE},
    }
    return ReportData(**{**fields, **changes})


def test_the_report_shows_every_metric():
    data = report_data()
    html = report_page(data)
    shown = [
        means[f"{metric}@{n}"]
        for means in data.metrics.split["test"].values()
        for metric in ("recall", "ndcg")
        for n in CUTOFFS
    ]
    for value in [*shown, distinct_means(0.6)["recall@10"]]:
        assert f">{value:.4f}</td>" in html
    for text in (
        "95% interval .0951\u2013.1049",
        "1,234",
        "5,601",
        "5,678",
        "5.6 M",
        "25.0%",
        "of all items are in the top 10 of some user, without seen items",
        "+150%",
        ">70<",
        ">30<",
        "reasons no id 17",
    ):
        assert text in html
    assert "3 epochs in 4 min 30 s, 1,000 prefixes/s in the last epoch." in html


def test_the_head_says_model_seed_date_version_and_machine():
    origin = {
        "date": "2026-11-29T10:58:37+00:00",
        "version": "0.2.0",
        "machine": "NVIDIA H200 (140 GiB), Xeon, 16 cores, 128 GiB",
        "num_workers": 2,
    }
    config = {"name": "books", "seed": 7, "model": {"name": "sasrec"}}
    html = report_page(report_data(config=config, history=origin))
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html)[:5] == [
        ("model", "sasrec"),
        ("seed", "7"),
        ("trained", "29 November 2026, 10:58 UTC"),
        ("version", "mdsrec 0.2.0"),
        ("machine", "2 workers, the first on NVIDIA H200 (140 GiB), Xeon, 16 cores, 128 GiB"),
    ]


def test_the_head_of_a_run_from_before_says_what_is_not_recorded():
    facts = run_facts({"seed": 7, "model": {"name": "mdsrec"}}, {"num_workers": 1})
    assert facts == {
        "model": "mdsrec",
        "seed": "7",
        **dict.fromkeys(("trained", "version", "machine"), "not recorded"),
    }


def test_a_sentence_explains_each_channel_and_gives_its_weight():
    channels = ("all", "network", "fused", "image", "memory", "popularity", "itemknn")
    metrics = run_metrics(
        split={"test": {channel: distinct_means(0.1) for channel in channels}},
        channel_weights={"fused": 1.0, "image": 1.686, "memory": 97.4, "seen": -60.0},
    )
    sentences = channel_sentences(metrics)
    assert [name for name, _ in sentences] == [
        *("all channels", "network only", "fused", "image only", "memory only", "seen"),
        *("popularity", "ItemKNN"),
    ]
    text = dict(sentences)
    assert text["all channels"].endswith("with weights chosen on validation.")
    assert text["image only"] == (
        "The part of the model that sees items through their image. Weight 1.69."
    )
    assert text["seen"].endswith("Weight -60.")
    assert text["popularity"].startswith("Baseline: ") and text["ItemKNN"].startswith("Baseline: ")


def test_a_slice_of_fewer_than_50_events_has_no_figure_and_an_empty_one_no_row():
    means = {channel: distinct_means(0.6) for channel in CHANNELS}
    slices = {"enough": 50, "few": 49, "none": 0}
    found = {name: SliceMetrics(count, means) for name, count in slices.items()}
    html = slices_table(run_metrics(slices={"test": {"training events": found}}))
    rows = re.findall(r"<td data-label=\"target\">(\w+)</td>(.*?)</tr>", html)
    assert [name for name, _ in rows] == ["enough", "few"]
    assert rows[0][1].count(">0.6000<") == len(CHANNELS)
    assert rows[1][1].count(">-<") == len(CHANNELS)
    assert "fewer than 50 events has no figure" in report_page(report_data())


def test_the_report_shows_every_point_of_the_curves():
    html = report_page(report_data())
    for n in CURVE:
        assert f"<title>text only, {n}: {n / 200:.4g}</title>" in html
    for epoch in range(3):
        assert f"<title>training loss, {epoch}: {7.5 - epoch:.4g}</title>" in html


def test_the_report_makes_no_requests_and_has_no_scripts():
    html = report_page(report_data())
    parsed = ParsedPage(html)
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    assert not {name for name, _ in parsed.attributes} & {"href", "srcset"}
    assert {value for name, value in parsed.attributes if name == "src"} == {PICTURE}
    assert not re.search(r"@import|url\(|https?://", html)


def test_names_are_escaped():
    name = "<b>a&\"b'</b>"
    html = report_page(
        report_data(name, manifests={name: Manifest("f", 1, (), counters={name: name})})
    )
    ParsedPage(html)
    assert "<b>" not in html
    assert "&lt;b&gt;a&amp;" in html


def test_sections_without_data_are_left_out():
    metrics = run_metrics(slices={"test": {}}, lists=None)
    html = report_page(report_data(metrics=metrics, history={}, manifests={}, cases=make_cases()))
    ParsedPage(html)
    absent = "By target and user", "Recommendation lists", "Case study", "Data", "Training"
    for heading in absent:
        assert f"<h2>{heading}</h2>" not in html


def test_a_run_without_test_events_has_a_report():
    metrics = run_metrics(
        split={"valid": {}, "test": {channel: {} for channel in CHANNELS}},
        curve=Curve(list(CURVE), {"test": {channel: [0.0] * len(CURVE) for channel in CHANNELS}}),
    )
    ParsedPage(report_page(report_data(metrics=metrics)))


def test_the_case_study_shows_the_recommended_items_of_each_channel():
    html = report_page(report_data())
    assert "Target ranked 2 by all channels, 1,234.5 by fused</h3>" in html
    strips = re.findall(r'"label">([^<]*)<span>([^<]*)</span></div><ol.*?</ol>', html)
    assert strips == [
        ("history", "all 2 events, then the target"),
        ("all channels", "target at 2"),
        ("fused", "target at 1,234.5"),
        ("text only", "target at 1"),
        ("text neighbors", "of the target"),
    ]
    cards = re.findall(r'<li class="card( target)?" title="(\w+)">', html)
    names = [title + mark for mark, title in cards]
    assert names == [
        *("One", "Two", "Three target"),
        *("Four", "Three target", "One"),
        *("One", "Two"),
        *("Three target", "Four"),
        "Four",
    ]
    assert html.count(f'<img src="{PICTURE}"') == 3
    assert html.count('<svg class="letter"') == 8


def test_the_report_counts_the_items_that_have_a_picture():
    assert "have a picture" not in report_page(report_data())
    html = report_page(report_data(cases=make_cases(BEST_BY_TEXT, pictures="/pictures")))
    assert "1 of 4 items have a picture." in html


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [float("nan"), 2.0], [-1e-9, 1e9], []])
def test_a_chart_draws_the_finite_values(values):
    svg = line_chart([Line("a", "series-0", list(enumerate(values)))], "x", "a by x")
    ParsedPage(svg)
    assert "nan" not in svg
    assert svg.count("<circle") == sum(value == value for value in values)


def test_a_chart_has_a_legend_only_if_it_has_several_lines():
    one = Line("a", "series-0", [(1, 2)])
    assert "legend" not in line_chart([one], "x", "label")
    assert line_chart([one, Line("b", "floor", [(1, 3)])], "x", "label").count("<li>") == 2


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0009, 0.03, "0.001 0.002 0.005 0.01 0.02"), (2e-5, 0.3, "0.0001 0.001 0.01 0.1")],
)
def test_a_log_axis_has_ticks_at_round_values(low, high, ticks):
    line = Line("a", "series-0", [(low, 1), (high, 1.5)])
    svg = line_chart([line], "x", "label", log_x=True)
    below = re.findall(r'class="tick"[^>]*text-anchor="middle">([^<]*)<', svg)
    assert below == ticks.split()


def test_dotted_items_have_the_keys_of_overrides():
    nested = {"name": "a", "model": {"dim": 3, "rho": {}}, "features": {"text": {"fields": ["t"]}}}
    assert dict(dotted_items(nested)) == {
        "name": "a",
        "model.dim": 3,
        "model.rho": {},
        "features.text.fields": ["t"],
    }


def test_text_table_aligns_its_columns():
    assert text_table(["run", "a"], [["x", "10"], ["longer", "2"]]).splitlines() == [
        "run      a",
        "x       10",
        "longer   2",
    ]


def test_the_comparison_table_ends_with_the_popularity_baseline(tmp_path):
    _, table, *_ = compare_runs([write_run(tmp_path, "a"), write_run(tmp_path, "b") + "/"]).split(
        "\n\n"
    )
    lines = table.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "a", "b", "popularity"]
    assert lines[1].split()[1] == f"{distinct_means(0.1)['recall@10']:.4f}"
    assert lines[3].split()[4] == f"{distinct_means(0.4)['ndcg@20']:.4f}"


def test_differences_from_the_first_run_are_paired_by_event(tmp_path):
    better = [(*row[:4], 0, 0) if row[3] == "all" else row for row in reversed(ROWS)]
    runs = [write_run(tmp_path, "a"), write_run(tmp_path, "b"), write_run(tmp_path, "c", better)]
    _, _, apart, *_ = compare_runs(runs).split("\n\n")
    header, same, other = (line.split() for line in apart.splitlines())
    assert header == ["difference", "to", "a", "recall@10", "ndcg@10"]
    assert same == ["b", *["+0.0000", "[+0.0000,", "+0.0000]", "p", "1.000"] * 2]
    gain = (3 - metrics.recall(*TEST_ALL, 10).sum()) / 3
    assert other[:2] == ["c", f"{gain:+.4f}"]
    assert len(compare_runs(runs[:1]).split("\n\n")) == 3


@pytest.mark.parametrize("changes", [{"dataset": "e" * 16}, {"cutoffs": [5]}])
def test_runs_with_different_data_or_settings_are_not_compared(tmp_path, changes):
    with pytest.raises(InputError, match=r"b: its .* differs from .*a's"):
        compare_runs([write_run(tmp_path, "a"), write_run(tmp_path, "b", **changes)])


def test_a_run_with_missing_or_damaged_metrics_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a/metrics.json: no such file: run `mdsrec evaluat"):
        compare_runs([str(tmp_path / "a")])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.json").write_text('{"ranks": 1}')
    with pytest.raises(InputError, match=r"a/metrics.json: damaged"):
        compare_runs([str(tmp_path / "a")])
