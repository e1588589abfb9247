"""The choice of users for a case study, and the cards and pictures of their items."""

import base64
from html import escape
from io import BytesIO

import pytest
from evaluated_runs import (
    PICTURE,
    ROWS,
    ParsedPage,
    cases_by_rank,
    make_case,
    make_cases,
    write_ranks,
)
from PIL import Image
from small_dataset import small_experiment

from evaluation.case_study import evenly_spaced, first_ranks
from evaluation.cases import Cases, Item, distinctive_cases, most_distinctive
from evaluation.report.cards import Cards
from evaluation.report.pictures import load_thumbnails, picture_folder
from mdsrec.errors import InputError


def test_the_pair_with_the_largest_lead_is_chosen_among_high_ranks():
    pairs = [(6, 900), (2, 40), (5, 50), (1, 46), (3, 1)]
    assert most_distinctive({"a": pairs}) == {"a": 2}  # leads by 45, as 3 does
    assert most_distinctive({"a": pairs, "b": pairs}) == {"a": 2, "b": 3}  # no index twice
    assert most_distinctive({"a": [(6, 7), (9, 11)]}) == {"a": 1}  # no high rank: the largest lead
    assert most_distinctive({"a": [(1, 1)], "b": [(1, 1)]}) == {"a": 0}


def test_each_channel_shows_the_user_whose_target_only_the_whole_score_ranks_high():
    cases = make_cases(
        *cases_by_rank(all=[1, 4, 5, 80], fused=[2, 90, 5, 1000], text=[60, 70, 1, 1])
    )
    assert [(channel, case.user) for channel, case in cases.by_channel()] == [
        ("fused", 1),
        ("text", 0),
    ]
    assert make_cases().by_channel() == []


def test_each_run_shows_the_user_whose_target_the_other_runs_rank_low():
    runs = [
        cases_by_rank(all=[1, 3, 50]),
        cases_by_rank(all=[9, 3, 2]),
        cases_by_rank(all=[8, 60, 30]),
    ]
    cases = distinctive_cases([make_cases(*run) for run in runs])
    # Best rank of the other runs: 8, 3, 2 for run 0; 1, 3, 30 for run 1; 1, 3, 2 for run 2.
    assert [(case.run, case.cases[0].user) for case in cases] == [(0, 0), (1, 2), (2, 1)]
    assert [case.rank["all"] for case in cases[1].cases] == [50, 2, 30]


def test_runs_with_other_users_or_without_cases_have_no_distinctive_cases():
    run = make_cases(*cases_by_rank(all=[1, 2]))
    assert distinctive_cases([run, None]) == []
    assert distinctive_cases([run, make_cases(*cases_by_rank(all=[1]))]) == []
    assert distinctive_cases([make_cases(), make_cases()]) == []
    assert [case.cases[0].user for case in distinctive_cases([run])] == [0]


def test_users_are_chosen_in_equal_steps():
    assert evenly_spaced(1000).tolist() == list(range(0, 1000, 5))
    assert evenly_spaced(2).tolist() == [0, 1]
    assert evenly_spaced(0).tolist() == []


def test_ranks_of_a_case_are_those_of_its_first_test_event(tmp_path):
    later = [(1, 2, "test", channel, 70, 0) for channel in ("all", "popularity")]
    uri = write_ranks(tmp_path, ROWS[:3], [*ROWS[3:5], *later, *ROWS[5:]])
    assert first_ranks(uri) == {
        0: {"all": 4.5, "popularity": 10},
        1: {"all": 1, "popularity": 2},
        5: {"all": 13, "popularity": 2},
    }


def test_cases_read_back_as_written(tmp_path):
    cases = make_cases(
        *cases_by_rank(all=[1, 2.5], text=[3, 4]), titles=("One", None), pictures="/p"
    )
    uri = str(tmp_path / "cases.json")
    assert Cases.read(uri) is None
    cases.write(uri)
    assert Cases.read(uri) == cases
    for edited in ('{"cases": [{}]}', "{}"):
        (tmp_path / "cases.json").write_text(edited)
        with pytest.raises(InputError, match=r"cases.json: damaged .*: evaluate the run again"):
            Cases.read(uri)


HOSTILE = (
    "<script>alert(1)</script>",
    "a \"quoted\" & 'single' title",
    "<img src=x onerror=alert(1)>",
    "long " * 40,
)


def cards_of(titles, shown=None):
    items = {n: Item(f"B{n}", title) for n, title in enumerate(titles)}
    case = make_case(0, 0, {"all": 1}, {"all": []}, history=range(len(titles)))
    return Cards(items, shown or {}).case_panel("<b>", case, [])


def test_titles_are_escaped():
    html = cards_of(HOSTILE)
    parsed = ParsedPage(html)
    assert parsed.tags <= {"div", "h3", "span", "ol", "li", "svg", "text", "p"}
    for title in HOSTILE:
        assert f"<p>{escape(title)}</p>" in html


def test_an_item_without_a_title_shows_its_id():
    assert "<p>B1</p>" in cards_of(["One", None])


def test_an_item_without_a_picture_shows_a_letter():
    html = cards_of(["'quoted", "...", "élan", "shown"], {"B3": PICTURE})
    assert html.count("<img ") == html.count(f'<img src="{PICTURE}" alt="">') == 1
    for letter in ("Q", "·", "É"):
        assert f">{letter}</text>" in html


def test_pictures_are_small_jpegs_on_white(tmp_path):
    Image.new("RGBA", (600, 300), (0, 0, 0, 0)).save(tmp_path / "B1.png")
    Image.new("RGB", (20, 10), "red").save(tmp_path / "B2.JPG", "JPEG")
    pictures = load_thumbnails(str(tmp_path) + "/", ["B1", "B2", "B3"])
    small = {
        item_id: Image.open(BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
        for item_id, uri in pictures.items()
    }
    sizes = {item_id: image.size for item_id, image in small.items()}
    assert sizes == {
        "B1": (128, 64),
        "B2": (20, 10),
    }
    assert {image.format for image in small.values()} == {"JPEG"}
    assert small["B1"].getpixel((9, 9)) == (255, 255, 255)


def test_files_that_are_not_pictures_are_left_out(tmp_path):
    (tmp_path / "B1.jpg").write_bytes(b"not a picture")
    (tmp_path / "B2.jpg").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    folder = str(tmp_path / "sub")
    assert load_thumbnails(str(tmp_path), ["B1", "B2", "B3"]) == {}
    assert load_thumbnails(folder, ["../outside", "B\0"]) == {}
    assert load_thumbnails("none://such", ["B1"]) == {}
    assert load_thumbnails(None, ["B1"]) == {}


def test_pictures_come_from_the_encoders_folder_unless_configured(tmp_path):
    encoder = {"encoder": "clip", "images": str(tmp_path)}
    model = {"modalities": []}
    read = small_experiment(tmp_path, features={"image": encoder}, model=model)
    assert picture_folder(read) == str(tmp_path)
    named = small_experiment(
        tmp_path, features={"image": encoder}, model=model, eval={"pictures": "s3://b/pictures"}
    )
    assert picture_folder(named) == "s3://b/pictures"
    by_address = {"encoder": "clip", "images": "url"}
    assert picture_folder(small_experiment(tmp_path, features={"image": by_address})) is None
