"""The report holds what its inputs hold, and asks nothing of a network."""

import re
from html.parser import HTMLParser

import pytest
from test_evaluation_summary import ROWS, TEST_ALL
from test_evaluation_summary import written as written_ranks

from evaluation.cases import Case, Cases, Item
from evaluation.compare import comparison, text_table
from evaluation.metrics.run_metrics import Curve, ListMetrics, RunMetrics, SliceMetrics
from evaluation.metrics.summary import CURVE
from evaluation.report.data_section import flattened
from evaluation.report.run_report import Facts, report
from evaluation.report.svg import Line, line_chart
from mdsrec import metrics
from mdsrec.errors import InputError
from mdsrec.tables import Manifest

CUTOFFS = (10, 20)
CHANNELS = ("all", "fused", "text", "popularity")
VOID = {"meta", "br", "img"}
PICTURE = "data:image/jpeg;base64,AAAA"


def means_of(start):
    """Different figures for every metric."""
    names = [f"{m}@{n}" for m in ("recall", "ndcg", "mrr") for n in CUTOFFS]
    return {name: start + i / 1000 for i, name in enumerate(names)}


def metrics_of(name="books", **changes):
    by_channel = {channel: means_of((i + 1) / 10) for i, channel in enumerate(CHANNELS)}
    curve = {channel: [n / 200 for n in CURVE] for channel in CHANNELS}
    bounds = {name: [0.09, 0.11] for name in means_of(0)}
    sides = {
        "with": SliceMetrics(70, {c: means_of(0.6) for c in CHANNELS}),
        "without": SliceMetrics(30, {c: means_of(0.7) for c in CHANNELS}),
    }
    lists = ListMetrics(top=10, exclude_seen=True, coverage=0.25, popularity_lift=1.5)
    found = {
        "name": name,
        "dataset": "d" * 16,
        "tables": "t" * 16,
        "weights": "w" * 16,
        "ranks": "r" * 16,
        "num_items": 1234,
        "cutoffs": list(CUTOFFS),
        "exclude_seen": False,
        "users": 5678,
        "targets": {"valid": 5600, "test": 5601},
        "split": {"valid": by_channel, "test": by_channel},
        "interval": {"test": {"all": {**bounds, "recall@10": [0.0951, 0.1049]}}},
        "curve": Curve(list(CURVE), {"test": curve}),
        "slices": {"test": {"text": sides}},
        "lists": lists,
        **changes,
    }
    return RunMetrics(**found)


def case_of(user, target, rank, top, history=(1,), neighbors=None):
    """A user; `rank` and `top` are by channel."""
    return Case(user, len(history), list(history), target, neighbors or {}, rank, top)


def cases_of(*cases, titles=("One", "Two", "Three", "Four"), pictures=None):
    items = {n: Item(f"B{n}", title) for n, title in enumerate(titles)}
    return Cases("r" * 16, pictures, list(cases), items)


FOUND_BY_TEXT = case_of(
    7,
    target=2,
    rank={"all": 2.0, "fused": 1234.5, "text": 1.0, "popularity": 9.0},
    top={"all": [3, 2, 0], "fused": [0, 1], "text": [2, 3]},
    history=(0, 1),
    neighbors={"text": [3]},
)


def facts_of(name="books", **changes):
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
    facts = {
        "config": {"name": name, "model": {"dim": 300, "rho": {"text": 0.5}}},
        "metrics": metrics_of(name),
        "history": {"epochs": epochs, "best_epoch": 2, "num_parameters": 5_600_000},
        "manifests": {"items": Manifest("f", 1234, (), counters={"reasons": {"no_asin": 17}})},
        "next_steps": ["python -m evaluation compare A B"],
        "cases": cases_of(FOUND_BY_TEXT),
        "pictures": {"B2": PICTURE},
    }
    return Facts(**{**facts, **changes})


class Tags(HTMLParser):
    """Open tags and attributes; fails on what is not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.attributes, self.tags = [], [], set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_figure_of_the_metrics_is_in_the_report():
    facts = facts_of()
    html = report(facts)
    shown = [
        means[f"{metric}@{n}"]
        for means in facts.metrics.split["test"].values()
        for metric in ("recall", "ndcg")
        for n in CUTOFFS
    ]
    for value in [*shown, means_of(0.6)["recall@10"], means_of(0.7)["recall@10"]]:
        assert f">{value:.4f}</td>" in html
    for text in (
        "95% within .0951 and .1049",
        "1,234",
        "5,601",
        "5,678",
        "5.6 M",
        "25.0%",
        "of all items stand in the 10 of some user, seen items left out",
        "+150%",
        ">70<",
        ">30<",
        "reasons no asin 17",
    ):
        assert text in html
    assert "3 epochs in 4 min 30 s, 1,000 prefixes/s in the last" in html


def test_every_point_of_the_curves_is_in_the_report():
    html = report(facts_of())
    for n in CURVE:
        assert f"<title>text alone, {n}: {n / 200:.4g}</title>" in html
    for epoch in range(3):
        assert f"<title>training loss, {epoch}: {7.5 - epoch:.4g}</title>" in html


def test_the_report_asks_nothing_of_a_network_and_runs_no_script():
    html = report(facts_of())
    parsed = Tags(html)
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    assert not {name for name, _ in parsed.attributes} & {"href", "srcset"}
    assert {value for name, value in parsed.attributes if name == "src"} == {PICTURE}
    assert not re.search(r"@import|url\(|https?://", html)


def test_text_of_the_users_is_escaped():
    name = "<b>a&\"b'</b>"
    html = report(facts_of(name, manifests={name: Manifest("f", 1, (), counters={name: name})}))
    Tags(html)
    assert "<b>" not in html
    assert "&lt;b&gt;a&amp;" in html


def test_a_report_without_history_presence_or_manifests_leaves_them_out():
    metrics = metrics_of(slices={"test": {}}, lists=None)
    html = report(facts_of(metrics=metrics, history={}, manifests={}, cases=cases_of()))
    Tags(html)
    absent = "By target and user", "What users are given", "Case study", "Data", "Training"
    for heading in absent:
        assert f"<h2>{heading}</h2>" not in html


def test_a_run_without_test_events_has_a_report():
    metrics = metrics_of(
        split={"valid": {}, "test": {channel: {} for channel in CHANNELS}},
        curve=Curve(list(CURVE), {"test": {channel: [0.0] * len(CURVE) for channel in CHANNELS}}),
    )
    Tags(report(facts_of(metrics=metrics)))


def test_the_report_tells_of_a_user_what_each_channel_offered():
    html = report(facts_of())
    assert "Target ranked 2 by all channels, 1,234.5 by fused</h3>" in html
    strips = re.findall(r'"label">([^<]*)<span>([^<]*)</span></div><ol.*?</ol>', html)
    assert strips == [
        ("history", "all 2 events, and what came next"),
        ("all channels", "target at 2"),
        ("fused", "target at 1,234.5"),
        ("text alone", "target at 1"),
        ("near in text", "to the target"),
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


def test_a_report_counts_the_pictures_that_it_was_to_show():
    assert "have a picture" not in report(facts_of())
    html = report(facts_of(cases=cases_of(FOUND_BY_TEXT, pictures="/pictures")))
    assert "1 of 4 items have a picture." in html


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [float("nan"), 2.0], [-1e-9, 1e9], []])
def test_a_chart_draws_whatever_values_there_are(values):
    svg = line_chart([Line("a", "series-0", list(enumerate(values)))], "x", "a by x")
    Tags(svg)
    assert "nan" not in svg
    assert svg.count("<circle") == sum(value == value for value in values)


def test_a_chart_has_a_legend_only_for_several_lines():
    one = Line("a", "series-0", [(1, 2)])
    assert "legend" not in line_chart([one], "x", "label")
    assert line_chart([one, Line("b", "floor", [(1, 3)])], "x", "label").count("<li>") == 2


def test_flattened_keys_are_those_of_overrides():
    nested = {"name": "a", "model": {"dim": 3, "rho": {}}, "features": {"text": {"fields": ["t"]}}}
    assert dict(flattened(nested)) == {
        "name": "a",
        "model.dim": 3,
        "model.rho": {},
        "features.text.fields": ["t"],
    }


def test_a_text_table_lines_up():
    assert text_table(["run", "a"], [["x", "10"], ["longer", "2"]]).splitlines() == [
        "run      a",
        "x       10",
        "longer   2",
    ]


def written(tmp_path, name, rows=ROWS, **changes):
    metrics_of(name, **changes).write(str(tmp_path / name / "metrics.json"))
    written_ranks(tmp_path / name, rows)
    return str(tmp_path / name)


def test_runs_are_compared_with_popularity_as_the_floor(tmp_path):
    _, table, *_ = comparison([written(tmp_path, "a"), written(tmp_path, "b") + "/"]).split("\n\n")
    lines = table.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "a", "b", "popularity"]
    assert lines[1].split()[1] == f"{means_of(0.1)['recall@10']:.4f}"
    assert lines[3].split()[4] == f"{means_of(0.4)['ndcg@20']:.4f}"


def test_runs_are_compared_event_by_event_with_the_first(tmp_path):
    better = [(*row[:4], 0, 0) if row[3] == "all" else row for row in reversed(ROWS)]
    runs = [written(tmp_path, "a"), written(tmp_path, "b"), written(tmp_path, "c", better)]
    _, _, apart, _ = comparison(runs).split("\n\n")
    header, same, other = (line.split() for line in apart.splitlines())
    assert header == ["less", "a", "recall@10", "ndcg@10"]
    assert same == ["b", *["+0.0000", "[+0.0000,", "+0.0000]", "p", "1.000"] * 2]
    gain = (3 - metrics.recall(*TEST_ALL, 10).sum()) / 3
    assert other[:2] == ["c", f"{gain:+.4f}"]
    assert len(comparison(runs[:1]).split("\n\n")) == 3


@pytest.mark.parametrize("changes", [{"dataset": "e" * 16}, {"cutoffs": [5]}])
def test_runs_on_unequal_terms_are_not_compared(tmp_path, changes):
    with pytest.raises(InputError, match=r"b: its .* differ from .*a's"):
        comparison([written(tmp_path, "a"), written(tmp_path, "b", **changes)])


def test_a_run_without_metrics_is_named(tmp_path):
    with pytest.raises(InputError, match=r"a/metrics.json: no such file: run `python -m evaluat"):
        comparison([str(tmp_path / "a")])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"a/metrics.json: damaged"):
        comparison([str(tmp_path / "a")])
