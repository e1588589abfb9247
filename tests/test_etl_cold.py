"""Items held out of all training, on worlds that are worked out by hand."""

import json

import pytest

from etl.recipes import raw_inputs, recipes
from mdsrec import schema, tables
from mdsrec.config import SequencesConfig
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.table_settings import table_settings

EVENTS = "user_id string, asin string, time long, file int, line long"
SHARE = 0.5
WARM = "ade"  # by CRC-32, which makes b, c and g cold
ALL = ("sequences", "items", "cooccurrence")


def left(spark, histories, cut=None):
    """{user: (asins, train_end, valid_end)} of histories as words, an event a day."""
    from etl.catalogue.cold import drop_cold
    from etl.catalogue.sequences import build_sequences, dense_ids

    rows = [
        (user, asin, time, 0, 100 * number + time)
        for number, (user, asins) in enumerate(histories.items())
        for time, asin in enumerate(asins)
    ]
    events = spark.createDataFrame(rows, EVENTS)
    catalogue = dense_ids(events, "asin", "item")
    asin_of = {row["item"]: row.asin for row in catalogue.collect()}
    found = build_sequences(drop_cold(events, SHARE, cut), catalogue, cut).collect()
    return {
        row.user_id: ("".join(asin_of[i] for i in row["items"]), row.train_end, row.valid_end)
        for row in found
    }


@pytest.mark.spark
def test_of_cold_items_only_the_last_event_stays_where_it_tests(spark):
    found = left(
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
    found = left(
        spark,
        {
            "cold last": "abc",  # with a and c left, c would have to train
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
def test_after_a_cut_in_time_every_event_stays(spark):
    from etl.catalogue.split import TimeCut

    histories = {"u": "abdcegbd", "late": "ccccccbc", "early": "bc"}
    found = left(spark, histories, TimeCut(valid_from=3, test_from=5))
    # a d | e | g b d of "u"; the validation event c is dropped with b
    assert found == {"u": ("adegbd", 2, 3), "late": ("cbc", 0, 0)}


def experiment(folder, histories, **keys):
    """The tables of histories as words, an event a day."""
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


def read(of, name):
    table_schema = {
        "sequences": schema.SEQUENCES,
        "items": schema.ITEMS,
        "cooccurrence": schema.COOCCURRENCE,
    }[name]
    return tables.read_table(tables.table_uri(of.root, name), table_schema)


HISTORIES = {"u": "abdceg", "v": "adcb", "w": "deade", "x": "bcc"}


@pytest.fixture(scope="module")
def built(spark, tmp_path_factory):
    """(experiment, manifests) of HISTORIES, built once."""
    from etl.run import build_tables

    of = experiment(tmp_path_factory.mktemp("cold"), HISTORIES, cold_share=SHARE)
    return of, build_tables(of, spark)


@pytest.mark.spark
def test_cold_items_keep_their_place_and_leave_no_trace_in_training(built):
    of, manifests = built
    # a d | e | g of u, a | d | b of v, d e a | d | e of w; x is gone
    items = {row["asin"]: (row["item"], row["num_train"]) for row in read(of, "items").to_pylist()}
    assert items == {"a": (0, 3), "b": (1, 0), "c": (2, 0), "d": (3, 2), "e": (4, 1), "g": (5, 0)}
    warm = {items[asin][0] for asin in WARM}
    o = read(of, "cooccurrence").to_pydict()
    assert {*o["item"], *o["other"]} == warm
    for row in read(of, "sequences").to_pylist():
        assert warm.issuperset(row["items"][: row["valid_end"]])
    counters = manifests["sequences"].counters
    assert (counters["users"], counters["items"], counters["interactions"]) == (4, 6, 6 + 4 + 5 + 3)
    assert counters["cold_items"] == 3
    assert counters["cold_events_dropped"] == 2 + 1 + 0 + 3
    assert counters["cold_test_events"] == 2
    assert counters["cold_users_dropped"] == 1
    assert (counters["train"], counters["valid"], counters["test"]) == (6, 3, 3)
    assert manifests["sequences"].settings["cold_share"] == SHARE


@pytest.mark.spark
def test_which_cold_items_a_user_met_changes_no_count_of_training(spark, tmp_path, built):
    from etl.run import build_tables

    others = experiment(tmp_path, HISTORIES | {"u": "cgadeb", "v": "badg"}, cold_share=SHARE)
    build_tables(others, spark)
    for name in ("cooccurrence", "items"):
        assert read(others, name) == read(built[0], name)
    assert read(others, "sequences") != read(built[0], "sequences")


@pytest.mark.spark
def test_a_share_that_leaves_no_event_is_refused(spark, tmp_path):
    from etl.run import build_tables

    with pytest.raises(InputError, match=r"cold_share = 0\.5 holds out all 2 items"):
        build_tables(experiment(tmp_path, {"u": "bcb"}, cold_share=SHARE), spark)


def test_without_cold_items_tables_and_their_fingerprints_are_those_of_before(tmp_path):
    of = experiment(tmp_path, HISTORIES)

    def fingerprints(share):
        sequences = of.sequences.model_copy(update={"cold_share": share})
        changed = of.model_copy(update={"sequences": sequences})
        made_by = recipes(changed, raw_inputs(changed))
        return [made_by[name].fingerprint for name in ALL]

    settings = table_settings(of)["sequences"]
    assert not any(key.startswith("cold") for key in settings)
    assert settings.keys() > SequencesConfig.model_fields.keys() - {"cold_share"}
    for found in zip(fingerprints(0.0), fingerprints(0.25), fingerprints(SHARE), strict=True):
        assert len(set(found)) == 3


def test_a_run_that_knows_no_cold_share_is_the_run_without_one(tmp_path):
    of = experiment(tmp_path, HISTORIES)
    older = of.resolved()
    del older["sequences"]["cold_share"]
    assert experiment_from(older, "config.json").identity() == of.identity()
    cold = experiment(tmp_path, HISTORIES, cold_share=SHARE)
    assert experiment_from(older, "config.json").identity() != cold.identity()
