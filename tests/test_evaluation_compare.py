"""The page of a comparison holds what the runs' files hold, and what is printed."""

import re
from pathlib import Path

import pytest
from evaluated_runs import ROWS, ParsedPage, cases_by_rank, make_cases, run_metrics, write_run

from evaluation.compare import comparison
from evaluation.evaluated_run import FinishedRun, labels_of
from evaluation.report.svg import Interval, interval_chart
from mdsrec import files
from mdsrec.errors import InputError

BETTER = [(*row[:4], 0, 0) if row[3] == "all" else row for row in ROWS]


def run_of(tmp_path, name, rows, **files_of):
    """A run's folder, with these files beside its metrics and ranks."""
    folder = write_run(tmp_path, name, rows)
    for file, content in files_of.items():
        files.write_json(f"{folder}/{file}.json", content)
    return folder


@pytest.fixture
def runs(tmp_path):
    config = {"name": "books-a", "seed": 1, "model": {"dim": 64, "rho": {"text": 1.0}}}
    other = {"name": "books-b", "seed": 1, "model": {"dim": 32, "rho": {}}}
    epochs = {"epochs": [{"epoch": 0, "loss": 7.25, "ndcg@10": 0.02}], "best_epoch": 0}
    first = run_of(tmp_path, "books-a", ROWS, config=config, history=epochs)
    second = run_of(tmp_path, "books-b", BETTER, config=other, history=epochs)
    make_cases(*cases_by_rank(all=[1, 40, 9]), titles=("<i>One</i>",)).write(f"{first}/cases.json")
    make_cases(*cases_by_rank(all=[9, 3, 9]), titles=("<i>One</i>",)).write(f"{second}/cases.json")
    return [first, second]


def page_of(folders, **options):
    screen = comparison(folders, **options)
    return screen, Path(screen.splitlines()[-1].split()[1]).read_text()


def cells(html):
    return [
        re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", row)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    ]


def test_the_page_holds_the_printed_figures(runs):
    screen, html = page_of(runs)
    rows = cells(html)
    _, table, apart, _ = screen.split("\n\n")
    for line in table.splitlines()[1:]:
        name, *figures = line.split()
        assert any(
            [row[0], *(c.split("\n")[0] for c in row[1:])] == [name, *figures] for row in rows
        )
    _, recall, ndcg = re.split(r"\s{2,}", apart.splitlines()[1])
    for metric, words in (("recall@10", recall), ("ndcg@10", ndcg)):
        mean, low, high, p = re.findall(r"[+-]?\d\.\d+", words)
        bounds = f"{low} to {high}".replace("0.", ".")
        assert ["b", metric, mean, bounds, p] in rows
    assert html.count("\n.0951\u2013.1049</td>") == 2


def test_the_page_holds_slices_curves_and_what_differs_in_the_configurations(runs):
    _, html = page_of(runs)
    rows = cells(html)
    assert ["with text", "70", "0.6000", "0.6000"] in rows
    assert rows[rows.index(["key", "a", "b"]) + 1 :][:3] == [
        ["model.dim", "64", "32"],
        ["model.rho.text", "1.0", "-"],
        ["model.rho", "-", "{}"],
    ]
    assert "seed" not in html
    for name in ("a", "b"):
        assert f"<title>{name}, 10: 0.05</title>" in html
        assert f"<title>{name}, 0: 7.25</title>" in html


def test_the_page_tells_of_the_same_users_what_each_run_offered(runs):
    _, html = page_of(runs)
    told = re.findall(
        r"<h3>(Target ranked higher by .)</h3>.*?target at (\d+).*?target at (\d+)", html
    )
    assert told == [
        ("Target ranked higher by a", "1", "9"),
        ("Target ranked higher by b", "40", "3"),
    ]
    assert html.count("<p>&lt;i&gt;One&lt;/i&gt;</p>") == 2 * (1 + 1 + 1 + 1)


def test_cases_of_other_ranks_are_not_shown(runs):
    cases = Path(runs[1], "cases.json")
    cases.write_text(cases.read_text().replace("r" * 16, "s" * 16))
    _, of_others = page_of(runs)
    cases.unlink()
    _, without = page_of(runs)
    for html in (of_others, without):
        assert "evaluate them again" in html
        assert "ranked higher" not in html


def test_the_page_asks_nothing_of_a_network_and_runs_no_script(runs):
    _, html = page_of(runs)
    parsed = ParsedPage(html)
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    assert not {name for name, _ in parsed.attributes} & {"src", "href", "srcset"}
    assert not re.search(r"@import|url\(|https?://", html)


def test_the_page_goes_where_it_is_asked_to_and_leaves_the_runs_alone(runs, tmp_path):
    out = tmp_path / "talk" / "two.html"
    screen, _ = page_of(runs, out=str(out))
    assert screen.splitlines()[-1] == f"page    {out}"
    assert out.exists()
    assert not list(tmp_path.rglob("comparison.html"))


def test_runs_without_history_or_configuration_have_a_page(tmp_path):
    _, html = page_of([run_of(tmp_path, name, ROWS) for name in ("a", "b")])
    ParsedPage(html)
    assert "<h2>Training</h2>" not in html
    assert "Configuration differences" not in html


def test_a_run_without_test_events_is_not_compared(tmp_path):
    folder = run_of(tmp_path, "a", ROWS)
    path = Path(folder, "metrics.json")
    run_metrics("a", targets={"valid": 3, "test": 0}).write(str(path))
    with pytest.raises(InputError, match="without test events"):
        comparison([folder])


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
def test_runs_go_by_what_their_names_do_not_share(names, labels):
    runs = [FinishedRun(f"/r/{n}", run_metrics(name), {}, {}, None) for n, name in enumerate(names)]
    assert labels_of(runs) == labels


def test_intervals_stand_on_one_scale_with_nought():
    both = [Interval("a", "series-0", -0.5, -1.0, 0.0), Interval("b", "series-1", 0.5, 0.0, 1.0)]
    svg = interval_chart(both, "label")
    ParsedPage(svg)
    ends = [tuple(map(float, e)) for e in re.findall(r'd="M([\d.]+) \d+H([\d.]+)"', svg)]
    [nought] = map(float, re.findall(r'class="mark" d="M([\d.]+) ', svg))
    assert ends[0][1] == ends[1][0] == nought
    assert ends[1][1] - nought == pytest.approx(nought - ends[0][0])
    assert interval_chart([], "label") == ""
