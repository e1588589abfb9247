"""`python -m benchmarks.faults`: what counts as an answer."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.faults import bits, hostile_images, secrets, servers
from benchmarks.faults.__main__ import main
from benchmarks.faults.stored_kinds import Kind
from benchmarks.faults.tries import Answer, Try, answered, report
from mdsrec import files


@pytest.mark.parametrize(
    "code, output, right, expected",
    [
        (0, "done\n", True, Answer.SAME),
        (0, "done\n", False, Answer.SILENT),
        (2, "mdsrec etl: error: part-0.parquet: damaged\n", False, Answer.LINE),
        (1, "Traceback (most recent call last):\n  …\nOSError\n", False, Answer.TRACEBACK),
        (0, "Traceback (most recent call last):\n  …\nOSError\n", True, Answer.TRACEBACK),
    ],
)
def test_an_answer_follows_from_exit_code_output_and_result(code, output, right, expected):
    found = answered("bits", "bit 3", code, output, right)
    assert found == Try("bits", "bit 3", expected, output.strip().splitlines()[-1])


def test_a_report_counts_by_kind_and_fails_where_a_try_failed(tmp_path, capsys):
    good = [Try("bits", "bit 3", Answer.LINE), Try("bits", "bit 4", Answer.SAME)]
    report(tmp_path, "bits", good)
    assert "| bits | 2 | 1 | 1 | 0 | 0 | 0 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        report(tmp_path, "bits", [*good, Try("names", "a NUL", Answer.TRACEBACK)])
    assert "| names | 1 | 0 | 0 | 0 | 1 | 0 |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "bits.json").read_text())) == 3


@pytest.mark.slow
def test_two_jobs_on_one_root_leave_the_tables_of_one_of_them(tmp_path, capsys):
    """One job paused, and one suspended: the other takes over. Seed 0 draws both kinds."""
    main(["jobs", str(tmp_path), "--plain", "--tries=2"])
    tries = json.loads((tmp_path / "jobs.json").read_text())
    assert {one["kind"] for one in tries} == {"paused job", "suspended job"}
    assert {one["answer"] for one in tries} <= {Answer.SAME, Answer.LINE}


def test_a_flipped_bit_is_in_a_copy_and_only_a_checked_reader_answers_in_a_line(tmp_path):
    world = tmp_path / "world"
    (world / "root").mkdir(parents=True)
    (world / "world.toml").touch()
    files.write_json(str(world / "root" / "history.json"), {"best_epoch": 3})
    written = (world / "root" / "history.json").read_bytes()

    def answers(read):
        kind = Kind("history", r"root/history\.json", read)
        return {one.answer for one in bits._tries(kind, world, random.Random(0), 40)}

    assert answers(lambda folder, file: files.read_json(str(folder / file))) == {Answer.LINE}
    assert Answer.SILENT in answers(lambda folder, file: (folder / file).read_bytes())
    assert answers(lambda folder, file: len((folder / file).read_bytes())) == {Answer.SAME}
    assert (world / "root" / "history.json").read_bytes() == written


def test_there_are_as_many_tries_as_the_table_says():
    assert len(secrets.PLACES) >= 40
    assert len(list(servers.faults(Path("unused")))) >= 40


def test_a_secret_in_an_error_or_in_a_file_left_behind_is_found(tmp_path, monkeypatch):
    place = secrets.Place("addresses", ("root=s3://AKIA:{S}@bucket",))
    answers = []
    for number, output in enumerate(["etl: root: refused", "etl: root: 12345678"]):
        monkeypatch.setattr(secrets, "run_watched", lambda *_, said=output: (2, said, set()))
        answers.append(secrets._try(tmp_path / str(number), place, "12345678").answer)
    assert answers == [Answer.LINE, Answer.SECRET]

    def leaves_a_file(command, folder, variables):
        (folder / "kept").write_text("12345678")
        return 0, "done", set()

    monkeypatch.setattr(secrets, "run_watched", leaves_a_file)
    assert secrets._try(tmp_path / "2", place, "12345678").answer == Answer.SECRET


def test_secrets_are_drawn_from_the_seed():
    first, again, other = (secrets.new_secret(random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_server_that_holds_a_download_beyond_its_deadline_is_a_fault(monkeypatch):
    monkeypatch.setattr(servers, "SLACK", -1.0)
    answer, said = servers._download_from(servers.SERVERS["the right image"])
    assert answer == Answer.SILENT and said.startswith("held for")


def test_an_image_that_takes_more_memory_than_allowed_is_a_fault(monkeypatch):
    monkeypatch.setattr(servers, "MAX_MEMORY", 1 << 10)
    answer, said = servers._decode(lambda: hostile_images.plain_image(1000, "RGBA", "PNG"))
    assert answer == Answer.SILENT and said.startswith("took")
