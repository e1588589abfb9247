"""The published split is written as raw files, in its own order."""

import gzip
import json

import pytest

from benchmarks.published_split import FIRST_DAY, main
from mdsrec.errors import InputError

HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


@pytest.fixture
def folder(tmp_path):
    """User 0 has the items 0 1 2 1 3, user 1 the items 2 0 3."""
    files = {
        "train.inter": f"{HEADER}0\t0 1\t2\n0\t0\t1\n",
        "valid.inter": f"{HEADER}0\t0 1 2\t1\n1\t2\t0\n",
        "test.inter": f"{HEADER}0\t0 1 2 1\t3\n1\t2 0\t3\n",
        "user2index": "ANN\t0\nBOB\t1\n",
        "item2index": "A\t0\nB\t1\nC\t2\nD\t3\n",
        "text": "item_id:token\ttext:token_seq\nA\tA red cup. \nB\tGloves\nC\tTape\n",
    }
    for name, content in files.items():
        (tmp_path / f"Toys.{name}").write_text(content)
    return tmp_path


def lines(path):
    return [json.loads(line) for line in gzip.open(path)]


def test_every_user_keeps_the_published_order(folder, capsys):
    main([str(folder), str(folder / "out"), "--category", "Toys"])
    events = lines(folder / "out" / "Toys_5.json.gz")
    assert [(e["reviewerID"], e["asin"]) for e in events] == [
        *(("ANN", asin) for asin in "ABCBD"),
        *(("BOB", asin) for asin in "CAD"),
    ]
    days = [(e["unixReviewTime"] - FIRST_DAY) / 86_400 for e in events]
    assert days == [0, 1, 2, 3, 4, 0, 1, 2]
    assert lines(folder / "out" / "meta_Toys.json.gz") == [
        {"asin": "A", "title": "A red cup."},
        {"asin": "B", "title": "Gloves"},
        {"asin": "C", "title": "Tape"},
    ]
    assert capsys.readouterr().out == "2 users, 8 interactions, 3 items with text\n"


def test_a_history_of_more_than_fifty_events_is_whole(folder):
    sequence = [str(n % 4) for n in range(60)]
    train = sequence[:-2]
    rows = (
        f"0\t{' '.join(train[:-back][-50:])}\t{train[-back]}\n" for back in range(1, len(train))
    )
    (folder / "Toys.train.inter").write_text(HEADER + "".join(rows))
    (folder / "Toys.valid.inter").write_text(f"{HEADER}0\t{' '.join(train[-50:])}\t2\n")
    (folder / "Toys.test.inter").write_text(f"{HEADER}0\t{' '.join(sequence[-51:-1])}\t3\n")
    main([str(folder), str(folder)])
    events = lines(folder / "Industrial_and_Scientific_5.json.gz")
    assert [e["asin"] for e in events] == ["ABCD"[int(item)] for item in sequence]


def test_missing_and_damaged_files_are_named(folder):
    (folder / "Toys.valid.inter").write_text(f"{HEADER}0\t0 1 2\n")
    with pytest.raises(InputError, match=r"Toys\.valid\.inter line 2: 2 columns instead of 3"):
        main([str(folder), str(folder)])
    (folder / "Toys.train.inter").unlink()
    with pytest.raises(InputError, match=r"0 files \*\.train\.inter instead of one"):
        main([str(folder), str(folder)])
