"""Recommendation lists equal a plain sort of the scores, and a search in the stored vectors."""

from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_runs import TWO_USERS, run_of, write_weights
from small_dataset import (
    NUM_ITEMS,
    NUM_USERS,
    small_experiment,
    title_of,
    write_categories,
    write_dataset,
)

from evaluation.recommend import Options, read_user_file, recommend
from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths
from training.data.sequences import SequenceReader
from training.inference import load_trained
from training.layers.queries import Queries
from training.layers.scoring import top_k_items


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=9, max_size=9), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 11),
    st.data(),
)
def test_top_items_are_those_of_a_plain_sort(scores, count, block, data):
    pairs = st.tuples(st.integers(0, len(scores) - 1), st.integers(0, 8))
    seen = data.draw(st.sets(pairs, max_size=9))
    wanted = data.draw(st.none() | st.sets(st.integers(0, 8)))
    queries = torch.tensor(scores, dtype=torch.float32)[:, None]  # one channel, one-hot items
    result = top_k_items(
        Queries(queries, torch.eye(9)[None]),
        torch.ones(1),
        count,
        block,
        torch.tensor(sorted(seen), dtype=torch.int64).view(-1, 2),
        None if wanted is None else torch.tensor([item in wanted for item in range(9)]),
    )
    for row, (best, items) in enumerate(zip(*result, strict=True)):
        among = range(9) if wanted is None else sorted(wanted)
        unseen = [item for item in among if (row, item) not in seen]
        expected = sorted(unseen, key=lambda item: (-scores[row][item], item))[:count]
        assert items[best > -torch.inf].tolist() == expected
        assert best.tolist()[: len(expected)] == [scores[row][item] for item in expected]


@pytest.fixture(scope="module")
def served(tmp_path_factory, shared_ray):
    """Return a run with random weights that has recommendations and vectors."""
    model = {"temperature": 0.2, "rho": {"text": 0.7, "image": 0.3}}
    root = tmp_path_factory.mktemp("served")
    experiment = small_experiment(root, eval=TWO_USERS, model=model)
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    assert "in the top 7 of some user, seen items included" in recommend(
        experiment, Options(7, False)
    )
    return experiment


def read(experiment, name, table_schema):
    return tables.read_table(f"{run_of(experiment)}/{name}", table_schema)


def histories_of(experiment):
    return read_sequences(experiment)["items"].to_pylist()


def read_sequences(experiment):
    return tables.read_table(tables.table_uri(experiment.root, "sequences"), schema.SEQUENCES)


@pytest.mark.ray
def test_recommendations_are_the_items_with_the_highest_whole_score(served):
    trained = load_trained(served)
    items, names = trained.item_vectors().double(), trained.channels
    rows = read(served, "recommendations", schema.RECOMMENDATIONS).to_pylist()
    assert [row["user"] for row in rows] == list(range(NUM_USERS))
    for row, history in zip(rows, histories_of(served), strict=True):
        user = trained.user_vectors([np.array(history, dtype=np.int32)])[0].double()
        terms = trained.sums["all"][:, None] * torch.einsum("cd,cxd->cx", user, items)
        best = terms.sum(0)[row["items"]]
        assert len(set(row["items"])) == 7
        np.testing.assert_allclose(row["scores"], best, atol=1e-4)
        np.testing.assert_allclose(best, terms.sum(0).sort(descending=True).values[:7], atol=1e-4)
        assert row["channels"] == [names[c] for c in terms[:, row["items"]].argmax(0)]


@pytest.mark.ray
def test_users_and_items_have_their_ids_and_titles(served):
    rows = read(served, "recommendations", schema.RECOMMENDATIONS).to_pylist()
    for row in rows:
        assert row["user_id"] == f"U{row['user']:04d}"
        assert row["item_ids"] == [f"B{item:04d}" for item in row["items"]]
        assert row["titles"] == [title_of(item) for item in row["items"]]
    assert {title for row in rows for title in row["titles"]} > {None}
    users = read(served, "vectors/users", schema.USER_VECTORS)
    assert users["user_id"].to_pylist() == [f"U{user:04d}" for user in range(NUM_USERS)]
    items = read(served, "vectors/items", schema.ITEM_VECTORS)
    assert items["title"].to_pylist() == [title_of(item) for item in range(NUM_ITEMS)]


@pytest.mark.ray
def test_a_table_that_lacks_the_present_columns_is_written_again(served):
    for name, columns in (
        ("recommendations", schema.RECOMMENDATIONS),
        ("vectors/users", schema.USER_VECTORS),
        ("vectors/items", schema.ITEM_VECTORS),
    ):
        manifest = tables.open_table(f"{run_of(served)}/{name}")
        assert manifest.settings["columns"] == columns.names
    former = schema.ITEM_VECTORS.remove(schema.ITEM_VECTORS.names.index("title"))
    settings = manifest.settings | {"columns": former.names}
    recipe = tables.Recipe(settings, manifest.inputs)
    tables.write_table(f"{run_of(served)}/vectors/items", [], former, recipe)
    recommend(served, Options(7, False))
    assert len(read(served, "vectors/items", schema.ITEM_VECTORS)) == NUM_ITEMS


def test_ids_are_read_across_the_files_of_the_sequences(served):
    ids = SequenceReader(served).user_ids(15, 45)  # of 20 users each
    assert ids.to_pylist() == [f"U{user:04d}" for user in range(15, 45)]


@pytest.mark.ray
def test_a_flat_index_over_the_vectors_finds_the_recommendations(served):
    items = read(served, "vectors/items", schema.ITEM_VECTORS)
    users = read(served, "vectors/users", schema.USER_VECTORS)
    assert items["item_id"].to_pylist() == [f"B{i:04d}" for i in range(NUM_ITEMS)]
    index = faiss.IndexFlatIP(3 * 8)
    index.add(np.stack(items["vector"].to_numpy()))
    scores, found = index.search(np.stack(users["vector"].to_numpy()), 7)
    rows = read(served, "recommendations", schema.RECOMMENDATIONS)
    np.testing.assert_allclose(scores, np.stack(rows["scores"].to_numpy()), atol=1e-4)
    assert (found == np.stack(rows["items"].to_numpy())).mean() > 0.95  # the rest are near ties


@pytest.mark.ray
def test_seen_items_are_left_out_with_exclude_seen(served):
    assert "without seen items" in recommend(served, Options(NUM_ITEMS, True))
    rows = read(served, "recommendations", schema.RECOMMENDATIONS).to_pylist()
    for row, history in zip(rows, histories_of(served), strict=True):
        assert sorted([*row["items"], *set(history)]) == list(range(NUM_ITEMS))
        assert len(row["scores"]) == len(row["channels"]) == len(row["items"])


@pytest.mark.ray
def test_only_items_of_a_category_are_listed(served):
    recommend(served, Options(NUM_ITEMS, False))
    of_all = read(served, "recommendations", schema.RECOMMENDATIONS)["items"].to_pylist()
    uri = RunPaths.of(served).recommendations
    assert "category" not in tables.open_table(uri).settings  # as in tables of older versions
    write_categories(served.root)
    assert "the top 3 items in Music of every user" in recommend(
        served, Options(3, False, category="Music")
    )
    found = read(served, "recommendations", schema.RECOMMENDATIONS)["items"].to_pylist()
    assert found == [[item for item in listed if item % 3][:3] for listed in of_all]
    assert tables.open_table(uri).settings["category"] == "Music"


@pytest.mark.ray
def test_only_the_users_of_a_file_are_served(served, tmp_path):
    recommend(served, Options(3, False))
    of_all = read(served, "recommendations", schema.RECOMMENDATIONS).to_pylist()
    ids = read_sequences(served)["user_id"].to_pylist()
    path = tmp_path / "users.txt"
    path.write_text(f"{ids[30]}\n\n{ids[2]}\n{ids[30]}\n")
    users = read_user_file(served, str(path))
    assert users == {2, 30}
    path.write_text(f"{ids[30]}\r\n{ids[2]}", encoding="utf-8-sig")  # as Windows writes it
    assert read_user_file(served, str(path)) == users
    assert "of 2 users" in recommend(served, Options(3, False, users))
    rows = read(served, "recommendations", schema.RECOMMENDATIONS).to_pylist()
    for row, user in zip(rows, (2, 30), strict=True):
        assert all(row[name] == of_all[user][name] for name in ("user", "user_id", "items"))


@pytest.mark.ray
def test_unknown_users_and_empty_files_are_errors(served, tmp_path):
    path = tmp_path / "users.txt"
    for text, message in (
        ("U0000\nnobody\n", "line 2: no user 'nobody'"),
        ("\n", "the file has no user ids"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_user_file(served, str(path))
    with pytest.raises(InputError, match="no such file"):
        read_user_file(served, str(tmp_path / "none.txt"))
    path.write_text("U0000\n", encoding="utf-16")
    with pytest.raises(InputError, match=f"--users {path}: not UTF-8 text"):
        read_user_file(served, str(path))
    with pytest.raises(InputError, match=f"--users {tmp_path}: cannot be read"):
        read_user_file(served, str(tmp_path))


@pytest.mark.ray
def test_more_items_than_exist_are_an_error(served):
    with pytest.raises(InputError, match="--top 41: there are only 40 items"):
        recommend(served, Options(41, False))


@pytest.mark.ray
def test_a_disk_without_room_for_the_vectors_is_named(served, monkeypatch):
    vectors = 3 * 8 * 4 * (NUM_USERS + NUM_ITEMS)  # three channels of width 8
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=vectors // 2 - 1))
    with pytest.raises(InputError, match="MiB free, but the vectors of this run take"):
        recommend(served, Options(7, False))
