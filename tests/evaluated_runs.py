"""Hand-written results of evaluated runs: ranks tables, metrics, case studies and parsed pages."""

from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.cases import Case, Cases, Item
from evaluation.metrics.run_metrics import Curve, ListMetrics, RunMetrics, SliceMetrics
from evaluation.metrics.summary import CURVE
from mdsrec import schema, tables
from mdsrec.tables import Recipe

ROWS = [  # user, target, split, channel, better, ties
    (0, 2, "valid", "all", 0, 0),
    (0, 1, "test", "all", 3, 1),
    (0, 1, "test", "popularity", 9, 0),
    (1, 0, "test", "all", 0, 0),
    (1, 0, "test", "popularity", 0, 2),
    (5, 1, "test", "all", 12, 0),
    (5, 1, "test", "popularity", 1, 0),
]
TEST_ALL = np.array([3, 0, 12]), np.array([1, 0, 0])  # better and ties of split test, channel all
CUTOFFS = (10, 20)
RANKS = Recipe({}, {}).fingerprint  # of the tables that `write_ranks` writes
CHANNELS = ("all", "fused", "text", "popularity")
PICTURE = "data:image/jpeg;base64,AAAA"
VOID = {"meta", "br", "img"}  # HTML tags that are never closed


def write_ranks(folder, *parts):
    """Write a ranks table with one file per part and return its URI."""
    uri = str(folder / "ranks")
    version = folder / "ranks" / "0123456789ab"
    version.mkdir(parents=True)
    for number, rows in enumerate(parts):
        columns = list(zip(*((*row, row[4] + 1 + row[5] / 2) for row in rows), strict=True))
        part = pa.table([pa.array(c) for c in columns], names=schema.RANKS.names)
        pq.write_table(part.cast(schema.RANKS), version / f"part-{number}.parquet")
    tables.commit(uri, str(version), Recipe({}, {}), sum(map(len, parts)))
    return uri


def write_run(tmp_path, name, rows=ROWS, **changes):
    """Write metrics.json and the ranks table of a run and return its folder."""
    run_metrics(name, **changes).write(str(tmp_path / name / "metrics.json"))
    write_ranks(tmp_path / name, rows)
    return str(tmp_path / name)


def distinct_means(start):
    """Return a different value for each metric."""
    names = [f"{m}@{n}" for m in ("recall", "ndcg", "mrr") for n in CUTOFFS]
    return {name: start + i / 1000 for i, name in enumerate(names)}


def run_metrics(name="books", **changes):
    by_channel = {channel: distinct_means((i + 1) / 10) for i, channel in enumerate(CHANNELS)}
    curve = {channel: [n / 200 for n in CURVE] for channel in CHANNELS}
    bounds = {name: [0.09, 0.11] for name in distinct_means(0)}
    slices = {
        "with": SliceMetrics(70, {c: distinct_means(0.6) for c in CHANNELS}),
        "without": SliceMetrics(30, {c: distinct_means(0.7) for c in CHANNELS}),
    }
    fields = {
        "name": name,
        "dataset": "d" * 16,
        "tables": "t" * 16,
        "weights": "w" * 16,
        "ranks": RANKS,
        "num_items": 1234,
        "cutoffs": list(CUTOFFS),
        "exclude_seen": False,
        "users": 5678,
        "targets": {"valid": 5600, "test": 5601},
        "split": {"valid": by_channel, "test": by_channel},
        "interval": {"test": {"all": {**bounds, "recall@10": [0.0951, 0.1049]}}},
        "curve": Curve(list(CURVE), {"test": curve}),
        "slices": {"test": {"text": slices}},
        "lists": ListMetrics(top=10, exclude_seen=True, coverage=0.25, popularity_lift=1.5),
        **changes,
    }
    return RunMetrics(**fields)


def make_case(user, target, rank, top, history=(1,), neighbors=None):
    """Return a user of the case study. `rank` and `top` are by channel."""
    return Case(user, len(history), list(history), target, neighbors or {}, rank, top)


def make_cases(*cases, titles=("One", "Two", "Three", "Four"), pictures=None):
    items = {n: Item(f"B{n}", title) for n, title in enumerate(titles)}
    return Cases(RANKS, pictures, list(cases), items)


def cases_by_rank(**rank):
    """Return cases of users 0, 1, ... whose targets have these ranks by channel."""
    return [
        make_case(user, 0, dict(zip(rank, ranks, strict=True)), {name: [0] for name in rank}, (0,))
        for user, ranks in enumerate(zip(*rank.values(), strict=True))
    ]


class ParsedPage(HTMLParser):
    """Tags and attributes of a page. Fails if a tag is not closed in order."""

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
