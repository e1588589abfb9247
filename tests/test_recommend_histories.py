"""`recommend --histories FILE` serves users who were not in the data."""

import json

import pandas as pd
import pytest
from random_runs import write_weights
from small_dataset import small_experiment, write_dataset

from evaluation.recommend import Options, recommend, recommend_histories
from evaluation.serving.history_files import read_histories
from mdsrec import schema, tables
from mdsrec.errors import InputError
from mdsrec.run_paths import RunPaths

OPTIONS = Options(5, False)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, shared_ray):
    experiment = small_experiment(
        tmp_path_factory.mktemp("run"), model={"dim": 16, "inner_dim": 16, "max_length": 10}
    )
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    return experiment


@pytest.fixture(scope="module")
def of_data(experiment) -> list[dict]:
    """Return the recommendations of the users in the data."""
    recommend(experiment, OPTIONS)
    return recommendations(experiment)


def recommendations(experiment) -> list[dict]:
    uri = RunPaths.of(experiment).recommendations
    return tables.read_table(uri, schema.RECOMMENDATIONS).to_pylist()


def write_file(path, histories: dict) -> str:
    """Write histories in the format that the name of the file says."""
    if path.suffix == ".jsonl":
        lines = [json.dumps({"user_id": u, "item_ids": ids}) for u, ids in histories.items()]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".parquet":
        rows = {"user_id": list(histories), "item_ids": list(histories.values())}
        pd.DataFrame(rows).to_parquet(path)
    else:
        events = [(user, item) for user, items in histories.items() for item in items]
        pd.DataFrame(events, columns=["user_id", "item_id"]).to_csv(path, index=False)
    return str(path)


@pytest.mark.ray
@pytest.mark.parametrize("name", ["users.jsonl", "users.parquet", "users.csv"])
def test_a_file_of_the_histories_in_the_data_gives_the_same_lists(
    experiment, of_data, tmp_path, name
):
    sequences = tables.read_table(
        tables.table_uri(experiment.root, "sequences"), schema.SEQUENCES
    ).to_pylist()
    histories = {
        f"new-{row['user_id']}": [f"B{item:04d}" for item in row["items"]]
        for row in reversed(sequences)
    }
    said = recommend_histories(experiment, write_file(tmp_path / name, histories), OPTIONS)
    assert "the top 5 items of 61 users of" in said
    rows = recommendations(experiment)
    assert [row["user_id"] for row in rows] == list(histories)
    assert [row["user"] for row in rows] == list(range(61))
    for row, own in zip(rows, reversed(of_data), strict=True):
        for column in ("items", "item_ids", "titles", "scores", "channels"):
            assert row[column] == own[column]


@pytest.mark.ray
def test_unknown_ids_and_users_without_a_known_item_are_said(experiment, tmp_path):
    histories = {"ann": ["B0004", "gone"], "ben": ["lost", "gone"], "cid": []}
    path = write_file(tmp_path / "users.jsonl", histories)
    said = recommend_histories(experiment, path, OPTIONS).splitlines()
    assert said[1:3] == [
        "2 item ids (3 events) are not in the catalogue and were left out: 'gone', 'lost'",
        "2 of 3 users have no known item: 'ben', 'cid'",
    ]
    assert [row["user_id"] for row in recommendations(experiment)] == ["ann"]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.jsonl", None, "no such file"),
        ("users.txt", "ann", "name a file .jsonl, .parquet or .csv"),
        ("users.jsonl", '{"user_id": "ann", "item_ids": ["B0004"]}\n{"user', "line 2: expected {"),
        ("users.jsonl", '{"user_id": "ann", "item_ids": "B0004"}', "not a list"),
        ("users.jsonl", '{"user_id": null, "item_ids": ["B0004"]}', "line 1: no user_id"),
        ("users.jsonl", '{"user_id": 1, "item_ids": ["B4"]}\n' * 2, "line 2: '1' again"),
        ("users.jsonl", '{"user_id": 1, "item_ids": ["gone"]}', "no user has a known item"),
        ("users.jsonl", "", "no user has a known item: there are no item ids"),
        ("users.csv", "user,item_id\n1,B0004\n", "no column user_id"),
        ("users.parquet", "user_id", "Parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(experiment, tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        recommend_histories(experiment, str(path), OPTIONS)
    assert str(error.value).startswith(f"--histories {path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_of_histories_may_have_any_separator_of_the_input_tables(tmp_path, separator):
    path = tmp_path / "a.csv"
    lines = ["\ufeffitem_id,user_id", "i1,u1", "i2,u2", "i3,u1"]
    path.write_text("\n".join(lines).replace(",", separator))
    found = [(history.user_id, history.item_ids) for history in read_histories(str(path))]
    assert found == [("u1", ["i1", "i3"]), ("u2", ["i2"])]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "user_id;x,item_id\n", "may be separated by ',' or ';': write a comma"),
        (
            "a.jsonl",
            '{"user": "u", "items": ["i"]}\n',
            "line 1: expected the keys user_id and item_ids; found keys: user, items$",
        ),
    ],
)
def test_a_file_of_histories_that_cannot_be_read_says_what_was_found(
    tmp_path, name, content, words
):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        list(read_histories(str(tmp_path / name)))
    with pytest.raises(InputError, match=f"no such file; did you mean {name}[?]"):
        list(read_histories(str(tmp_path / f"x{name}")))
