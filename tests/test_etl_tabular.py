"""Tables of the user's own: columns, ids, times, files of every kind, and `etl inspect`."""

import csv
import gzip
import json
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.catalogue.metadata import plain_text
from etl.catalogue.parsing import UnusableLineError
from etl.catalogue.raw import raw_files
from etl.features.column_vectors import ColumnVectors
from etl.features.vector_columns import id_labels
from etl.tabular.columns import event_columns, item_columns
from etl.tabular.delimited import HEAD_BYTES, open_csv, read_csv
from etl.tabular.listing import input_files
from etl.tabular.rows import python_values
from etl.tabular.table_file import open_table
from etl.tabular.table_input import TableInput
from etl.tabular.values import DATES, Moment, content_of, id_text, moment
from mdsrec.config import ColumnsConfig, InputConfig
from mdsrec.config.loading import experiment_from, load_experiment
from mdsrec.errors import InputError

NOON = 1_500_000_000  # 2017-07-14T02:40:00Z


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        (7, "7"),
        (7.0, "7"),
        (1.5, "1.5"),
        (Decimal("7.00"), "7"),
        (b" B1 ", "B1"),
        (" B1 ", "B1"),  # or CSV would not meet Parquet
        (b"1.0", "1.0"),  # CSV is text, unless the whole column is of such numbers
        ("é", "é"),
    ],
)
def test_ids_of_any_type_become_text(value, text):
    assert id_text(value, "user") == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "user is null"),
        (float("nan"), "user is null"),
        (b"", "user is empty"),
        (b"NULL", "user is null"),
        (" ", "user is empty"),
        (True, "user is a boolean, not text or a whole number"),
        ([1], "user is a list, not text or a whole number"),
        (b"\xff", "user is not UTF-8"),
        (b"a\nb", "user holds a line break"),
        (1e300, "user is a float that holds no exact whole number"),
    ],
)
def test_an_unusable_id_has_a_reason(value, reason):
    with pytest.raises(UnusableLineError, match=reason):
        id_text(value, "user")


@pytest.mark.parametrize(
    ("value", "kind", "micros"),
    [
        (NOON, "seconds", NOON * 10**6),
        (float(NOON) + 0.5, "seconds", NOON * 10**6 + 500_000),
        (str(NOON).encode(), "seconds", NOON * 10**6),
        (NOON * 1000 + 1, "milliseconds", NOON * 10**6 + 1000),
        (NOON * 10**6, "microseconds", NOON * 10**6),
        (NOON * 10**9, "nanoseconds", NOON * 10**6),
        ("2017-07-14T02:40:00Z", DATES, NOON * 10**6),
        ("2017-07-14 02:40:00", DATES, NOON * 10**6),
        ("2017-07-14 02:40:00 UTC", DATES, NOON * 10**6),
        ("2017-07-14 04:40:00 +02:00", DATES, NOON * 10**6),
        (b"2017-07-14T04:40:00.5+02:00", DATES, NOON * 10**6 + 500_000),
        ("2017-07-14", DATES, (NOON - 9600) * 10**6),
        (date(2017, 7, 14), DATES, (NOON - 9600) * 10**6),
        (datetime(2017, 7, 14, 2, 40), DATES, NOON * 10**6),
        (datetime(2017, 7, 14, 4, 40, tzinfo=timezone(timedelta(hours=2))), DATES, NOON * 10**6),
    ],
)
def test_a_time_is_read_from_any_form(value, kind, micros):
    assert moment(value, None) == Moment(kind, micros)


@pytest.mark.parametrize("kind", ["ns", "us", "ms", "s", "Europe/Berlin", "date"])
def test_moments_of_parquet_are_in_utc_in_any_unit(kind):
    types = {"Europe/Berlin": pa.timestamp("us", kind), "date": pa.date32()}
    column = pa.array([datetime(2017, 7, 14, 2, 40)], pa.timestamp("us"))
    if kind == "date":
        column = pa.array([date(2017, 7, 14)])
    [value] = python_values(column.cast(types.get(kind) or pa.timestamp(kind)))
    assert moment(value, None).micros == (NOON if kind != "date" else NOON - 9600) * 10**6


def test_a_configured_unit_overrules_the_size():
    assert moment(5, "milliseconds") == Moment("milliseconds", 5000)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "time is null"),
        (b"", "time is null"),
        (b"NaN", "time is null"),
        ("yesterday", "time is not readable"),
        ("14/07/2017", "time is not readable"),
        (float("inf"), "time is not readable"),
        (True, "time is a boolean"),
        ([1], "time is a list"),
    ],
)
def test_an_unusable_time_has_a_reason(value, reason):
    with pytest.raises(UnusableLineError, match=reason):
        moment(value, None)


def test_rows_of_csv_keep_their_numbers_across_quotes_blank_and_ragged_rows(tmp_path):
    content = b'\xef\xbb\xbfu;i;t\r\n1;2;3\r\n\r\n4;5\r\n6;"a;\nb";7\r\n8;9;10;11\r\n012;13;14'
    file = open_csv(write(tmp_path / "a.csv", content), None)
    assert (file.names, file.separator) == (("u", "i", "t"), ";")
    assert [(row.number, row.cells, row.reason) for row in read_csv(file, ["i", "u"])] == [
        (2, [b"2", b"1"], None),
        (3, [b"", b""], "blank"),
        (4, None, "2 columns instead of 3"),
        (5, [b"a;\nb", b"6"], None),
        (6, None, "4 columns instead of 3"),
        (7, [b"13", b"012"], None),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_recognized_by_the_header(tmp_path, separator):
    line = separator.join(["user", "item", "when"])
    assert open_csv(write(tmp_path / "a.txt", f"{line}\n"), None).separator == separator


def test_a_column_of_whole_numbers_written_as_floats_is_recognized(tmp_path):
    file = open_csv(write(tmp_path / "a.csv", "u,v,w\n1.0,1.0,1\n,1.5,2\n12.0,2.0,3\n"), None)
    assert file.floats == {"u"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"u,i,u\n1,2,3\n", "two columns are named 'u'"),
        (b"a,b;c\n", "may be separated by ',' or ';': set input.separator"),
        (b"\xff\xfeu\0,\0", "not UTF-8 text"),
        (b"\xe9,i\n1,2\n", "the header is not UTF-8"),
        (b"\n1,2\n", "the first row is empty"),
        (b'u,i\n1,"2\n3,4\n', "opens a quote that is never closed"),
        (b'u,i\n1,2\n"3,4\n5,6\n', "opens a quote that is never closed"),
        (b"u,i\n1,2\n\xff,3,4\n", "not CSV after row 2"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_csv_that_cannot_be_read_is_one_line(tmp_path, content, words):
    with pytest.raises(InputError, match=words) as error:
        list(read_csv(open_csv(write(tmp_path / "a.csv", content), None), ["i"]))
    assert "\n" not in str(error.value) and "a.csv" in str(error.value)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_quoted_line_break_in_the_last_cell_is_no_open_quote(tmp_path, end):
    file = open_csv(write(tmp_path / "a.csv", f'u,i\n1,"a\nb"{end}'), None)
    assert [row.cells for row in read_csv(file, ["i"])] == [[b"a\nb"]]


def test_the_row_that_the_end_of_the_head_cuts_decides_nothing(tmp_path):
    row = "x" * 2042 + ",12.0\n"  # 2048 bytes, so that the head ends behind `,1`
    content = "t,u\n" + row * 600
    assert content[:HEAD_BYTES].endswith("x,1")
    assert open_csv(write(tmp_path / "a.csv", content), None).floats == {"u"}


def test_a_long_description_among_the_first_rows_is_read(tmp_path):
    text = "word " * 28_000
    file = open_csv(write(tmp_path / "a.csv", f"i,text\n1.0,{text}\n2.0,short\n"), None)
    assert (file.floats, csv.field_size_limit()) == ({"i"}, 128 << 10)
    assert [len(row.cells[0]) for row in read_csv(file, ["text"])] == [140_000, 5]


def test_gzip_is_read_by_its_content_and_a_truncated_one_is_refused(tmp_path):
    packed = gzip.compress(b"u,i\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(20_000)))
    path = write(tmp_path / "a.csv.gz", packed)
    assert sum(1 for _ in read_csv(open_csv(path, None), ["u"])) == 20_000
    write(tmp_path / "a.csv.gz", packed[:-20])
    with pytest.raises(InputError, match=r"a\.csv\.gz: truncated or corrupt gzip"):
        list(read_csv(open_csv(path, None), ["u"]))


@pytest.fixture
def listed(tmp_path):
    """Return a function that lists the files of names below a folder."""

    def names_of(*names):
        config = InputConfig(format="table", interactions=[str(tmp_path / n) for n in names])
        found = input_files(config, config.interactions)
        return [file.uri.removeprefix(f"{tmp_path}/") for file in found]

    return names_of


def test_folders_and_patterns_are_files_in_order(tmp_path, listed):
    for name in ("b.csv", "a.TSV", "c.md", "_SUCCESS", "d.jsonl"):
        write(tmp_path / name, "u,i\n")
    assert listed("") == ["a.TSV", "b.csv", "d.jsonl"]
    assert listed("d.jsonl", "[ab].*[vV]") == ["d.jsonl", "a.TSV", "b.csv"]
    for names, words in [
        (["*.parquet"], "no file matches this pattern"),
        (["c.md"], "its name ends in none of .csv"),
        (["x.csv"], "no such file"),
        (["a.TSV", "a.*"], "is listed twice"),
        (["**/b.csv"], r"\*\* is not supported"),
    ]:
        with pytest.raises(InputError, match=words):
            listed(*names)
    write(tmp_path / "b.csv", "")
    with pytest.raises(InputError, match=r"b\.csv: the file is empty"):
        listed("b.csv")


def test_hidden_files_are_read_only_if_they_are_named(tmp_path, listed):
    (tmp_path / "_old").mkdir()
    for name in ("_b.csv", ".c.csv", "_old/a.csv"):
        write(tmp_path / name, "u,i\n")
    for names, words in [("", "no file in this folder"), ("*.csv", "no file matches")]:
        with pytest.raises(InputError, match=words):
            listed(names)
    write(tmp_path / "a.csv", "u,i\n")
    assert listed("") == listed("*.csv") == ["a.csv"]
    assert listed("_b.csv", ".c.csv") == ["_b.csv", ".c.csv"]
    assert listed("_*.csv") == ["_b.csv"]
    with pytest.raises(InputError, match="no file matches"):
        listed("*/a.csv")


def test_the_log_names_what_a_folder_holds_beside_its_tables(tmp_path, listed, caplog):
    (tmp_path / "more").mkdir()
    for name in ("a.csv", "notes.md", "_SUCCESS", "more/b.csv"):
        write(tmp_path / name, "u,i\n")
    with caplog.at_level("INFO", "etl"):
        assert listed("") == ["a.csv"]
    assert caplog.messages == [f"{tmp_path}: not read: more/ (a folder), notes.md (another suffix)"]


@pytest.mark.parametrize(
    ("columns", "names", "words"),
    [
        ({}, ["u", "item", "time"], "no column of the user is recognized.*'u', 'item', 'time'"),
        ({}, ["user", "user_id", "item", "ts"], "'user', 'user_id' may be the user"),
        ({"user": "custommer"}, ["customer", "item", "ts"], "the nearest is 'customer'"),
        ({"time": "Time"}, ["user", "item", "time"], r"no column 'Time' \(input.columns.time\)"),
    ],
)
def test_a_column_of_interactions_that_is_not_found_is_one_line(columns, names, words):
    with pytest.raises(InputError, match=words):
        event_columns(ColumnsConfig(**columns), "a.csv", names)


def test_usual_names_are_taken_only_where_one_column_has_one():
    found = event_columns(ColumnsConfig(item="sku"), "a", ["User-ID", "item", "sku", "TimeStamp"])
    assert found.names == ("User-ID", "sku", "TimeStamp")
    names = ["id", "name", "title", "description", "photo"]
    found = item_columns(ColumnsConfig(item="sku"), "a", names)
    assert (found.item, found.title, found.text, found.image) == (
        "id",
        None,  # name or title
        ("description",),
        "photo",
    )
    with pytest.raises(InputError, match=r"name the items' column in input.columns.item_key"):
        item_columns(ColumnsConfig(item="sku"), "a", ["number", "name"])


BASE = {"name": "x", "root": "/tmp/x"}
TABLE = {"format": "table", "interactions": ["a.csv"]}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, 'key edition is missing; input.format = "table" reads tables of your own'),
        ({"format": "table"}, "key interactions is missing"),
        (TABLE | {"edition": "2018"}, 'edition needs format = "amazon"'),
        ({"edition": "2018", "reviews": ["a"], "items": ["b"]}, 'items needs format = "table"'),
        (TABLE | {"columns": {"user": "a", "item": "a"}}, "user and item both name the column 'a'"),
        (TABLE | {"columns": {"text": ["a", "a"]}}, "a is listed twice"),
        (TABLE | {"columns": {"title": "a"}}, "columns.title needs items"),
        (TABLE | {"columns": {"usr": "a"}}, "input.columns.usr; the nearest key is user"),
        (TABLE | {"options": {"url": "x"}}, "options needs a source"),
        (TABLE | {"time_unit": "ms"}, 'input.time_unit = "ms"'),
        (TABLE | {"separator": "::"}, "input.separator"),
    ],
)
def test_a_wrong_section_input_is_one_line(section, words):
    with pytest.raises(InputError, match=words) as error:
        experiment_from(BASE | {"input": section}, "a.toml")
    assert "\n" not in str(error.value)


def test_features_that_need_the_other_format_are_refused():
    section = {"input": TABLE, "model": {"name": "sasrec"}}
    for features, words in [
        ({"column": "v"}, r'features.v.column needs input.format = "table" and input.items'),
        ({"encoder": "e", "fields": ["brand"]}, "list the columns of your table in input.columns"),
        ({"encoder": "e", "column": "v"}, "set either encoder or vectors or column"),
    ]:
        with pytest.raises(InputError, match=words):
            experiment_from(BASE | section | {"features": {"v": features}}, "a.toml")


def test_options_of_a_source_are_never_written_down_or_repeated(tmp_path):
    toml = 'name = "x"\nroot = "r"\n[input]\nformat = "table"\nsource = "jdbc"\n'
    toml += 'interactions = ["orders"]\noptions = { password = "hunter2" }\n'
    path = write(tmp_path / "a.toml", toml)
    experiment = load_experiment(path, ["input.options.user.name=me"])
    assert experiment.input.options == {"password": "hunter2", "user.name": "me"}
    assert experiment.input.interactions == ("orders",)
    assert "hunter2" not in json.dumps(experiment.resolved())
    for override in ("input.options.password=['hunter2']", "input.options='hunter2'"):
        with pytest.raises(InputError) as error:
            load_experiment(path, [override])
        assert "hunter2" not in str(error.value)


def test_a_json_array_and_doubled_columns_of_parquet_are_refused(tmp_path):
    write(tmp_path / "a.json", '[{"user": 1}]\n')
    column = pa.array([1])
    pq.write_table(pa.Table.from_arrays([column, column], ["u", "u"]), tmp_path / "b.parquet")
    write(tmp_path / "c.parquet", "no Parquet")
    for name, words in [
        ("a.json", "a JSON array in its first lines: write one JSON object"),
        ("b.parquet", "two columns are named 'u'"),
        ("c.parquet", "not Parquet"),
    ]:
        with pytest.raises(InputError, match=words):
            open_table(raw_files([str(tmp_path / name)])[0], None)


def test_the_files_of_one_table_need_the_same_columns(tmp_path):
    paths = [
        write(tmp_path / "a.csv", "user,item,time\n"),
        write(tmp_path / "b.csv", "time,user,product\n"),
    ]
    config = InputConfig(format="table", interactions=paths)
    with pytest.raises(InputError, match=r"b\.csv: no column 'item', which .*a\.csv has"):
        TableInput(config, input_files(config, paths), ()).check_columns()


def column_vectors(path, key="id", column="v"):
    source = ColumnVectors((open_table(raw_files([path])[0], None),), key, column)
    found = []
    for block in range(len(source)):
        for batch in source.batches(block):
            for label, first, last in zip(
                batch.labels.to_pylist(), batch.offsets[:-1], batch.offsets[1:], strict=True
            ):
                found.append((label, batch.values[first:last].tolist()))
    return found


def test_a_column_of_vectors_is_read_from_every_kind_of_file(tmp_path):
    expected = [(b"1", [0.5, 1.0]), (b"2", []), (None, [2.0, 3.0])]
    rows = 'id,v\n1,"[0.5, 1]"\n2,\n,"[2, 3]"\n'
    lines = '{"id": 1, "v": [0.5, 1]}\n{"id": "2", "v": null}\nnot JSON\n{"v": [2, 3]}\n'
    assert column_vectors(write(tmp_path / "a.csv", rows)) == expected
    assert column_vectors(write(tmp_path / "a.jsonl", lines)) == expected
    for name, vectors in [
        ("lists", pa.array([[0.5, 1.0], None, [2.0, 3.0]])),
        ("texts", pa.array(["[0.5, 1]", None, "[2, 3]"])),
    ]:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": [1, 2, None], "v": vectors}), path, row_group_size=2)
        assert column_vectors(str(path)) == expected


@pytest.mark.parametrize("null", ["NULL", "NaN", r"\N"])
def test_a_null_of_csv_is_no_vector_and_no_text(tmp_path, null):
    path = write(tmp_path / "a.csv", f'id,v\n1,"[0.5, 1]"\n2,{null}\n')
    assert column_vectors(path) == [(b"1", [0.5, 1.0]), (b"2", [])]
    assert content_of(null.encode()) is None


def test_spaces_around_an_id_separate_no_vector_from_its_item():
    column = pa.array([" i0", "i0 ", None, b"i0  "], pa.binary())
    assert id_labels("v.parquet", "item_id", column).to_pylist() == [b"i0", b"i0", None, b"i0"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (b"[]", None),
        (b"{}", None),
        (b"[ cut off", "[ cut off"),
        (b'["a", "b"]', "a\nb"),
        (b"7.50", "7.50"),
        (pa.array([Decimal("7.50")]), "7.50"),
        (pa.array([date(2017, 7, 14)]), "2017-07-14"),
        (pa.array([datetime(2017, 7, 14, 2, 40)]), "2017-07-14 02:40:00"),
        (pa.array([[Decimal("1.5"), None]]), "1.5"),
        (pa.array([float("nan")]), None),
        (pa.array([{"color": "red", "since": date(2017, 7, 14)}]), "color: red\nsince: 2017-07-14"),
        (pa.array([[("color", "red")]], pa.map_(pa.string(), pa.string())), "color: red"),
        (pa.array([[]], pa.map_(pa.string(), pa.string())), None),
    ],
    ids=str,
)
def test_an_item_cell_of_any_type_is_plain_text(cell, text):
    [value] = python_values(cell) if isinstance(cell, pa.Array) else [cell]
    assert plain_text(content_of(value))[0] == text


@pytest.mark.parametrize("cell", ["a red shirt", "[1, [2]]", '{"a": 1}', "7"])
def test_a_cell_that_is_no_vector_is_refused_with_its_row(tmp_path, cell):
    path = write(tmp_path / "a.jsonl", json.dumps({"id": 1, "v": cell}) + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl row 1: the cell of 'v' is no list of numbers"):
        column_vectors(path)
