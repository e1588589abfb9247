"""Metrics and comparisons do not depend on how the table of ranks is cut into parts."""

from contextlib import nullcontext
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from evaluated_runs import write_ranks
from small_dataset import small_experiment

from evaluation import pool, recommend
from evaluation.metrics import many_users, rank_parts
from evaluation.metrics.bootstrap import Difference, UserSums, difference
from evaluation.metrics.events import Ranking, aligned_events, all_events
from evaluation.metrics.many_users import ManyUsers
from evaluation.metrics.slices import by_history, by_presence
from evaluation.metrics.summary import summarize
from evaluation.recommend import Options
from evaluation.stored import part_tables
from evaluation.stored.table_rows import TableRows, smallest_ints
from evaluation.vector_tables import VectorTables
from mdsrec import arrays, schema, tables
from mdsrec.config.training import EvalConfig
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from mdsrec.tables import Recipe
from mdsrec.tables.versions import VERSION


def rows_of(seed, users=range(30)):
    """Return ranks of 0 to 3 targets a user."""
    generator = np.random.default_rng(seed)
    targets = [(user, n) for user in users for n in range(user % 4)]
    return [
        (user, n, "valid" if n == 0 else "test", channel, int(generator.integers(30)), n % 2)
        for user, n in targets
        for channel in ("all", "popularity")
    ]


def run_of(folder, *parts):
    write_ranks(folder, *parts)
    return str(folder)


@pytest.mark.parametrize("part_rows", [1, 5, 64])
def test_a_large_file_is_summarized_in_parts_as_it_is_at_once(tmp_path, monkeypatch, part_rows):
    uri = write_ranks(tmp_path, rows_of(0))
    slicings = {"item": by_presence([np.array([1])], 4), "history": by_history(np.arange(30))}
    whole = summarize(uri, ("all", "popularity"), (5, 10), slicings)
    monkeypatch.setattr(rank_parts, "PART_ROWS", part_rows)
    found = summarize(uri, ("all", "popularity"), (5, 10), slicings)
    assert len(list(rank_parts.rank_parts(uri))) > 1
    assert found.slices == whole.slices
    of_item = {name: each.targets for name, each in found.slices["test"]["item"].items()}
    assert of_item == {"with": 14, "without": 7}
    assert (found.users, found.split, found.interval) == (whole.users, whole.split, whole.interval)
    curves = (asdict(each)["curve"]["recall"]["test"]["all"] for each in (found, whole))
    assert next(curves) == pytest.approx(next(curves))


def test_ranks_in_memory_are_a_part_as_those_of_a_file_are(tmp_path):
    uri = write_ranks(tmp_path, rows_of(0))
    part = rank_parts.RankPart(tables.read_table(uri, schema.RANKS))
    [stored] = rank_parts.rank_parts(uri)
    for split, channel in (("valid", "popularity"), ("test", "all"), ("test", "none")):
        found, expected = (each.select(split, channel) for each in (part, stored))
        assert all(map(np.array_equal, found, expected))
    assert len(part.select("test", "all").users) == 21


def test_users_that_are_not_in_order_are_an_error(tmp_path):
    uri = write_ranks(tmp_path, rows_of(0, range(9, 20)), rows_of(0, range(9)))
    with pytest.raises(InputError, match=r"part-1.parquet: its users are not in order: delete"):
        list(rank_parts.rank_parts(uri))


def test_runs_with_other_parts_are_compared_on_the_same_events(tmp_path):
    first = run_of(tmp_path / "a", rows_of(0, range(12)), rows_of(0, range(12, 30)))
    other_rows = rows_of(1)
    cuts = [n for n, row in enumerate(other_rows) if row[0] in (7, 23)]
    second = run_of(
        tmp_path / "b",
        other_rows[: cuts[0]],
        [row for row in other_rows[cuts[0] :] if row[0] < 23],
        [row for row in other_rows if row[0] >= 23],
    )
    paired, rankings = ManyUsers(), [Ranking(first), Ranking(second)]
    for one, other in aligned_events(rankings, (5,)):
        assert one.are_those_of(other)
        paired.add(one.users, other.values - one.values)
    one, other = (all_events(ranking, (5,)) for ranking in rankings)
    expected = difference(one.users, other.values, one.values)
    found = Difference.of(paired.sums())
    for name in ("means", "intervals", "p"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("users", [range(27), range(3, 30), [*range(10), *range(11, 30)]])
def test_runs_with_other_test_events_are_not_compared(tmp_path, users):
    """Users 2, 10 and 27 have test events."""
    first = Ranking(run_of(tmp_path / "a", rows_of(0)))
    other = Ranking(run_of(tmp_path / "b", rows_of(0, users)))
    with pytest.raises(InputError, match=r"/b: its test events differ from those of .*/a: run"):
        list(aligned_events([first, other], (5,)))


def test_users_in_parts_have_the_sums_of_all_together(monkeypatch):
    monkeypatch.setattr(many_users, "PENDING_ROWS", 16)
    values = np.random.default_rng(0).integers(0, 6, (500, 2)) / 3
    users, found = np.repeat(np.arange(250), 2), ManyUsers()
    for first in range(0, 500, 20):
        found.add(users[first : first + 20], values[first : first + 20])
    whole = UserSums.from_events(users, values)
    np.testing.assert_array_equal(found.sums().rows, whole.rows)
    np.testing.assert_array_equal(found.sums().counts, whole.counts)
    np.testing.assert_array_equal(found.sums().intervals(), whole.intervals())


def test_more_distinct_users_than_are_kept_are_grouped_with_nearly_the_same_interval(monkeypatch):
    monkeypatch.setattr(many_users, "MOST_ROWS", 300)
    monkeypatch.setattr(many_users, "PENDING_ROWS", 16)  # so users arrive after the grouping
    monkeypatch.setattr(many_users, "GROUPS", 300)
    values, found = np.random.default_rng(0).random((1200, 1)), ManyUsers()
    for first in range(0, 1200, 200):
        found.add(np.arange(first, first + 200), values[first : first + 200])
    whole, grouped = UserSums.from_events(np.arange(1200), values), found.sums()
    assert len(grouped.counts) == 300 and grouped.rows[:, 0].sum() == 1200
    assert grouped.means() == pytest.approx(whole.means())
    widths = [np.ptp(sums.intervals()) for sums in (whole, grouped)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


@pytest.fixture
def items(tmp_path, monkeypatch):
    """Return a table of 10 items in files of 4 rows and groups of 2, without items 3 and 6."""
    monkeypatch.setattr(part_tables, "PART_ROWS", 4)
    numbers = np.array([n for n in range(12) if n not in (3, 6)], dtype=np.int32)
    rows = pa.table([numbers, numbers * 100], names=["item", "center"]).cast(schema.CENTERS)
    uri = str(tmp_path / "table")
    batches = rows.to_batches(max_chunksize=2)
    manifest = part_tables.write_parts(uri, batches, schema.CENTERS, Recipe({}, {}))
    assert [file.rows for file in manifest.files] == [4, 4, 2]
    return uri


def test_chosen_rows_are_those_of_the_whole_table(items):
    rows = TableRows(items, schema.CENTERS, ["item", "center"])
    whole = tables.read_table(items, schema.CENTERS)
    for first, last in ((0, 10), (3, 7), (9, 10), (4, 4)):
        assert rows.between(first, last).equals(whole.slice(first, last - first))
    for places in ([], [0], [1, 2, 9], [5, 6]):
        assert rows.at(np.array(places, dtype=np.int64)).equals(
            whole.take(pa.array(places, pa.int64()))
        )
    assert rows.where("item", np.array([2, 3, 9], dtype=np.int32))["center"].to_pylist() == [
        200,
        900,
    ]
    assert rows.where("item", np.array([3], dtype=np.int32)).num_rows == 0


def test_counts_are_held_in_the_smallest_type(items):
    counts = smallest_ints(items, schema.CENTERS, "center")
    assert counts.dtype == np.uint16
    assert counts.tolist() == tables.read_table(items, schema.CENTERS)["center"].to_pylist()


def test_vectors_of_more_numbers_than_offsets_count_are_several_chunks(monkeypatch):
    monkeypatch.setattr(arrays, "MOST_VALUES", 7)
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    found = arrays.fixed_lists(rows)
    assert [len(chunk) for chunk in found.chunks] == [2, 2, 1]
    assert found.to_pylist() == rows.tolist()
    assert arrays.fixed_lists(rows[:, :0]).to_pylist() == [[]] * 5
    assert arrays.fixed_lists(rows[:0]).type == pa.list_(pa.float32())


def write_vectors(uri, table_schema, rows, rows_per_part=10):
    """Write rows, in which absent columns are null, as a table in parts."""
    table = pa.Table.from_pylist(rows, table_schema)
    batches = table.to_batches(max_chunksize=rows_per_part)
    part_tables.write_parts(uri, batches, table_schema, Recipe({}, {}))


def test_the_best_items_of_vectors_are_found_in_all_files_of_items(tmp_path, monkeypatch):
    monkeypatch.setattr(part_tables, "PART_ROWS", 2)
    paths = RunPaths(str(tmp_path))
    users = [
        {"user": 0, "vector": [1, 0], "seen": [0], "seen_weight": -9},
        {"user": 1, "vector": [-1, 1], "seen": [3, 4], "seen_weight": 2},
    ]
    nothing = {"events": [], "event_weights": []}
    write_vectors(paths.user_vectors, schema.USER_VECTORS, [user | nothing for user in users])
    vectors = [[4, 0], [3, 1], [1, 5], [4, 2], [2, 3]]
    items = [{"item": n, "vector": vector} for n, vector in enumerate(vectors)]
    write_vectors(paths.item_vectors, schema.ITEM_VECTORS, items, rows_per_part=2)
    assert len(tables.open_table(paths.item_vectors).files) == 3
    stored = VectorTables.read(str(tmp_path))
    assert stored.scores(slice(None)).tolist() == [[-5, 3, 1, 4, 2], [-4, -2, 4, 0, 3]]
    assert stored.top(slice(None), 3).tolist() == [[3, 1, 4], [2, 4, 3]]
    assert stored.top(slice(1, 2), 9).tolist() == [[2, 4, 3, 1, 0]]


def test_more_parts_than_file_names_order_are_refused():
    assert len(pool.shards_of(16 * 100_000, EvalConfig(user_batch=1))) == 100_000
    expected = r"eval.user_batch = 1: 1,600,001 rows would be 100,001 files .* to at least 2$"
    with pytest.raises(InputError, match=expected):
        pool.shards_of(16 * 100_000 + 1, EvalConfig(user_batch=1))
    assert pool.shards_of(16 * 100_000 + 1, EvalConfig(user_batch=2))[-1].last == 1_600_001


@pytest.mark.parametrize(
    ("sizes", "num_gpus", "num_groups"),
    [
        ({"num_workers": None}, 0, 2),
        ({"num_workers": None}, 4, 4),
        ({"num_workers": None, "item_shards": 2}, 4, 2),
        ({"num_workers": 3}, 4, 3),
        ({"num_workers": 3, "item_shards": 4}, 4, 1),
        ({"num_workers": 30}, 4, 10),
    ],
)
def test_actors_are_as_many_as_gpus_unless_they_are_set(
    tmp_path, monkeypatch, sizes, num_gpus, num_groups
):
    monkeypatch.setattr(pool, "uses_gpu", lambda _: num_gpus > 0)
    monkeypatch.setattr(pool, "capacity", lambda: {"GPU": float(num_gpus)})
    experiment = small_experiment(tmp_path, eval=sizes)
    assert pool._num_groups(experiment, num_missing=10) == num_groups


class NoItems(pool.ShardWorker):
    kind = "items"

    @classmethod
    def total(cls, experiment):
        return 0


def test_the_step_of_a_table_of_items_is_named_after_items(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(pool, "ray_session", nullcontext)
    monkeypatch.setattr(pool, "uses_gpu", lambda _: False)
    monkeypatch.setattr(pool.heartbeat, "begin", steps.append)
    experiment, uri = small_experiment(tmp_path), str(tmp_path / "items")
    pool.write_table_in_shards(experiment, {}, NoItems, uri, Recipe({}, {}), "served")
    assert steps == ["items are served"]


def test_parts_of_other_batch_or_block_sizes_are_in_another_version():
    recipe = Recipe({"run": "one"}, {})
    sizes = [{}, {"user_batch": 512}, {"item_block": 512}]
    names = [pool.version_of(recipe, EvalConfig(**each)) for each in sizes]
    assert len(set(names)) == 3
    assert all(VERSION.fullmatch(name) for name in names)
    assert pool.version_of(recipe, EvalConfig(user_batch=256, item_block=1024)) == names[0]


def test_lists_of_more_items_than_offsets_count_are_refused():
    trained = SimpleNamespace(num_items=48_000_000)
    recommend._check_top(trained, Options(8_388_607, False), EvalConfig(user_batch=256))
    expected = r"--top 8388608: with batches of 256 users .* 2,147,483,648 values.* at most 255$"
    with pytest.raises(InputError, match=expected):
        recommend._check_top(trained, Options(8_388_608, False), EvalConfig(user_batch=256))


def test_a_damaged_file_of_ranks_is_named(tmp_path):
    uri = write_ranks(tmp_path, rows_of(0))
    [path] = tmp_path.glob("ranks/*/*.parquet")
    content = bytearray(path.read_bytes())
    content[-200:-8] = bytes(192)
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"\.parquet: damaged \(bytes 0 to .*\): delete the folder"
    ):
        list(rank_parts.rank_parts(uri))
