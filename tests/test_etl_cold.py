"""Cold items, which training never sees, on small histories worked out by hand."""

import json

import pytest

from etl.recipes import raw_inputs, recipes
from mdsrec import schema, tables
from mdsrec.config import SequencesConfig
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.table_settings import table_settings

EVENTS = "user_id string, item_id string, time long, file int, line long"
SHARE = 0.5
WARM = "ade"  # b, c and g are cold by their CRC-32
ALL = ("sequences", "items", "cooccurrence")


def sequences_without_cold(spark, histories, cut=None):
    """Return {user: (items, train_end, valid_end)}.

    A history is a word: a letter is an item, with one event per day.
    """
    from etl.catalogue.cold import drop_cold
    from etl.catalogue.sequences import build_sequences, dense_ids

    rows = [
        (user, item_id, time, 0, 100 * number + time)
        for number, (user, ids) in enumerate(histories.items())
        for time, item_id in enumerate(ids)
    ]
    events = spark.createDataFrame(rows, EVENTS)
    catalogue = dense_ids(events, "item_id", "item")
    id_of = {row["item"]: row.item_id for row in catalogue.collect()}
    found = build_sequences(drop_cold(events, SHARE, cut), catalogue, cut).collect()
    return {
        row.user_id: ("".join(id_of[i] for i in row["items"]), row.train_end, row.valid_end)
        for row in found
    }


@pytest.mark.spark
def test_of_cold_items_only_an_event_that_is_a_test_target_is_kept(spark):
    found = sequences_without_cold(
        spark,
        {
            "cold last": "adeb",
            "cold before": "abdceg",  # leaves a, d, e and the test target g
            "cold validation": "adebd",
            "cold twice": "bdab",  # the same item at the start and as target
            "three": "adb",
            "warm": "aded",
        },
    )
    assert found == {
        "cold last": ("adeb", 2, 3),
        "cold before": ("adeg", 2, 3),
        "cold validation": ("aded", 2, 3),
        "cold twice": ("dab", 1, 2),
        "three": ("adb", 1, 2),
        "warm": ("aded", 2, 3),
    }


@pytest.mark.spark
def test_a_user_with_fewer_than_three_events_left_trains_on_warm_ones_only(spark):
    found = sequences_without_cold(
        spark,
        {
            "cold last": "abc",  # if a and c were kept, c would be a training event
            "warm last": "abd",
            "short": "ab",
            "one": "a",
            "all cold": "bcgb",
        },
    )
    assert found == {
        "cold last": ("a", 1, 1),
        "warm last": ("ad", 2, 2),
        "short": ("a", 1, 1),
        "one": ("a", 1, 1),
    }


@pytest.mark.spark
def test_from_the_test_cut_on_every_event_is_kept(spark):
    from etl.catalogue.split import TimeCut

    histories = {"u": "abdcegbd", "late": "ccccccbc", "early": "bc"}
    found = sequences_without_cold(spark, histories, TimeCut(valid_from=3, test_from=5))
    # "u" keeps a d | e | g b d: c is cold and a validation event, so it is dropped, as b is
    assert found == {"u": ("adegbd", 2, 3), "late": ("cbc", 0, 0)}


def experiment_on(folder, histories, **keys):
    """Return an experiment on `histories`, words as above."""
    reviews = folder / "reviews.json"
    reviews.write_text(
        "".join(
            json.dumps({"reviewerID": user, "asin": asin, "unixReviewTime": 86_400 * day}) + "\n"
            for user, asins in histories.items()
            for day, asin in enumerate(asins)
        )
    )
    content = {
        "name": "x",
        "root": str(folder / "root"),
        "input": {"edition": "2018", "reviews": [str(reviews)]},
        "sequences": {"k_core": 1, "repeats": "keep", **keys},
    }
    return experiment_from(content, "test")


def read(experiment, name):
    table_schema = {
        "sequences": schema.SEQUENCES,
        "items": schema.ITEMS,
        "cooccurrence": schema.COOCCURRENCE,
    }[name]
    return tables.read_table(tables.table_uri(experiment.root, name), table_schema)


HISTORIES = {"u": "abdceg", "v": "adcb", "w": "deade", "x": "bcc"}


@pytest.fixture(scope="module")
def built(spark, tmp_path_factory):
    """Build HISTORIES once; return (experiment, manifests)."""
    from etl.run import build_tables

    experiment = experiment_on(tmp_path_factory.mktemp("cold"), HISTORIES, cold_share=SHARE)
    return experiment, build_tables(experiment, spark)


@pytest.mark.spark
def test_cold_items_keep_their_ids_and_are_not_in_any_training_data(built):
    experiment, manifests = built
    # u: a d | e | g, v: a | d | b, w: d e a | d | e, x is dropped
    items = {
        row["item_id"]: (row["item"], row["num_train"])
        for row in read(experiment, "items").to_pylist()
    }
    assert items == {"a": (0, 3), "b": (1, 0), "c": (2, 0), "d": (3, 2), "e": (4, 1), "g": (5, 0)}
    warm = {items[item_id][0] for item_id in WARM}
    o = read(experiment, "cooccurrence").to_pydict()
    assert {*o["item"], *o["other"]} == warm
    for row in read(experiment, "sequences").to_pylist():
        assert warm.issuperset(row["items"][: row["valid_end"]])
    counters = manifests["sequences"].counters
    assert (counters["users"], counters["items"], counters["interactions"]) == (4, 6, 6 + 4 + 5 + 3)
    assert counters["cold_items"] == 3
    assert counters["cold_events_dropped"] == 2 + 1 + 0 + 3
    assert counters["cold_test_events"] == 2
    assert counters["cold_users_dropped"] == 1
    assert (counters["train"], counters["valid"], counters["test"]) == (6, 3, 3)
    assert manifests["sequences"].settings["cold_share"] == SHARE


@pytest.mark.slow
@pytest.mark.spark
def test_training_tables_do_not_depend_on_the_cold_items_in_the_histories(spark, tmp_path, built):
    from etl.run import build_tables

    others = experiment_on(tmp_path, HISTORIES | {"u": "cgadeb", "v": "badg"}, cold_share=SHARE)
    build_tables(others, spark)
    for name in ("cooccurrence", "items"):
        assert read(others, name) == read(built[0], name)
    assert read(others, "sequences") != read(built[0], "sequences")


@pytest.mark.spark
def test_a_share_that_leaves_no_event_is_an_input_error(spark, tmp_path):
    from etl.run import build_tables

    with pytest.raises(InputError, match=r"cold_share = 0\.5 holds out all 2 items"):
        build_tables(experiment_on(tmp_path, {"u": "bcb"}, cold_share=SHARE), spark)


def test_the_cold_share_enters_settings_and_fingerprints_only_if_it_is_not_zero(tmp_path):
    experiment = experiment_on(tmp_path, HISTORIES)

    def fingerprints(share):
        sequences = experiment.sequences.model_copy(update={"cold_share": share})
        changed = experiment.model_copy(update={"sequences": sequences})
        recipe_of = recipes(changed, raw_inputs(changed))
        return [recipe_of[name].fingerprint for name in ALL]

    settings = table_settings(experiment)["sequences"]
    assert not any(key.startswith("cold") for key in settings)
    assert settings.keys() > SequencesConfig.model_fields.keys() - {"cold_share"}
    for found in zip(fingerprints(0.0), fingerprints(0.25), fingerprints(SHARE), strict=True):
        assert len(set(found)) == 3


def test_a_run_from_before_cold_share_existed_is_the_same_run_without_cold_items(tmp_path):
    experiment = experiment_on(tmp_path, HISTORIES)
    older = experiment.resolved()
    del older["sequences"]["cold_share"]
    assert experiment_from(older, "config.json").identity() == experiment.identity()
    cold = experiment_on(tmp_path, HISTORIES, cold_share=SHARE)
    assert experiment_from(older, "config.json").identity() != cold.identity()
