"""graph.max_cooccurrences: the heaviest entries of each row of O, worked out by hand."""

import logging

import pytest

from etl.builders.workspace import Workspace
from etl.graph import heaviest
from etl.recipes import RawInputs, recipes
from etl.status import Build, build_report
from mdsrec import schema, tables
from mdsrec.config.loading import experiment_from
from mdsrec.table_names import cooccurrence_name, propagated_name, whole_cooccurrence_name

HISTORIES = {"A": "abcXX", "B": "abXX", "C": "acXX", "D": "daXX"}
"""The last two events are held out. So a-b weighs 1 + 1, b-c 1, a-c 1/2 + 1 and a-d 1."""
WHOLE = {
    ("a", "b"): 2.0,
    ("a", "c"): 1.5,
    ("a", "d"): 1.0,
    ("b", "a"): 2.0,
    ("b", "c"): 1.0,
    ("c", "a"): 1.5,
    ("c", "b"): 1.0,
    ("d", "a"): 1.0,
}


def experiment(folder, **graph):
    content = {
        "name": "x",
        "root": str(folder / "root"),
        "input": {"edition": "2018", "reviews": [str(folder / "reviews.json")]},
        "sequences": {"k_core": 1, "repeats": "keep"},
        "features": {"text": {"vectors": str(folder / "none.parquet")}},
        "graph": graph,
        "model": {"num_neighbors": 2, "num_centers": 2, "memory": False},
        "spark": {"rows_per_file": 1},
    }
    return experiment_from(content, "test")


def write_reviews(folder):
    lines = [
        f'{{"reviewerID": "{user}", "asin": "{item}", "unixReviewTime": {time}}}\n'
        for user, items in HISTORIES.items()
        for time, item in enumerate(items)
    ]
    (folder / "reviews.json").write_text("".join(lines))


@pytest.mark.spark
@pytest.mark.parametrize(
    ("most", "lost", "rows_cut"),
    [
        (1, {("a", "c"), ("a", "d"), ("b", "c"), ("c", "b")}, 3),
        pytest.param(2, {("a", "d")}, 1, marks=pytest.mark.slow),
    ],
)
def test_the_heaviest_entries_of_a_row_are_kept(
    spark, tmp_path, monkeypatch, caplog, most, lost, rows_cut
):
    from etl.run import _build_outdated, _shared_tables

    monkeypatch.setattr(heaviest, "ENTRIES_PER_SPAN", 4)  # of 8: two spans of two items
    write_reviews(tmp_path)
    bounded = experiment(tmp_path, max_cooccurrences=most)
    name = cooccurrence_name(bounded)
    assert name == f"cooccurrence,max_cooccurrences={most}"
    (tmp_path / "none.parquet").write_bytes(b"")
    space = Workspace(bounded, spark)
    caplog.set_level(logging.INFO, "etl")
    built = Build()
    _build_outdated(space, space.recipes, built, _shared_tables(space))
    manifests = built.manifests
    ids = tables.read_table(space.uri("items"), schema.ITEMS)["item_id"].to_pylist()

    def entries(table):
        rows = tables.read_table(space.uri(table), schema.COOCCURRENCE).to_pylist()
        return {(ids[row["item"]], ids[row["other"]]): row["score"] for row in rows}

    assert entries(whole_cooccurrence_name(bounded)) == WHOLE
    assert entries(name) == {pair: WHOLE[pair] for pair in WHOLE if pair not in lost}
    weight = sum(WHOLE[pair] for pair in lost)
    expected = {"rows_cut": rows_cut, "lost_weight": weight, "lost_share": weight / 11}
    assert manifests[name].counters == expected
    files = manifests[name].files
    assert len(files) > 2 and max(file.rows for file in files) == 1
    share = f"leaves out {100 * weight / 11:.3g}% of the weight of O, in {rows_cut} rows"
    assert f"graph.max_cooccurrences = {most} {share}" in caplog.text
    assert f"rows cut {rows_cut}, lost weight {weight:g}, lost share" in build_report(
        bounded, built
    )


def test_tables_and_runs_without_the_key_stay_valid_and_those_with_it_have_names_of_their_own(
    tmp_path, monkeypatch
):
    write_reviews(tmp_path)
    (tmp_path / "none.parquet").write_bytes(b"")
    plain, bounded = experiment(tmp_path), experiment(tmp_path, max_cooccurrences=100)
    inputs = RawInputs((), ())
    whole, derived = recipes(plain, inputs), recipes(bounded, inputs)
    assert cooccurrence_name(plain) == "cooccurrence" == whole_cooccurrence_name(bounded)
    assert whole["cooccurrence"] == derived["cooccurrence"]
    assert "max_cooccurrences" not in repr([r.settings for r in whole.values()])
    assert "max_cooccurrences" not in plain.identity()["graph"]
    assert bounded.identity()["graph"]["max_cooccurrences"] == 100
    name = cooccurrence_name(bounded)
    assert derived[name].inputs == {"cooccurrence": whole["cooccurrence"].fingerprint}
    assert name in derived[propagated_name(bounded, "text")].inputs  # features read the bounded O
    changed = {key for key in derived if key not in whole}
    assert changed == {
        name,
        "propagated/text,max_cooccurrences=100",
        "neighbors/text/mu=1,max_cooccurrences=100",
        "places/text/mu=1,max_cooccurrences=100",
    }
