"""Two ETLs of two months at once on one root: one after the other, or refused, never mixed."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.experiment import write_experiment
from benchmarks.faults.jobs import SECTIONS, EtlJob
from benchmarks.faults.results import Results, table_results
from etl.synthetic.catalogue import write_catalogue

PLACES = [("interactions", "start"), ("sequences", "commit"), ("features/image", "start")]
KINDS = ["plain", pytest.param("spark", marks=[pytest.mark.slow, pytest.mark.spark])]


class Months:
    """Two ETL processes, and the tables of each month as one of them builds them undisturbed."""

    def __init__(self, folder: Path, first: EtlJob, second: EtlJob) -> None:
        self.folder, self.first, self.second = folder, first, second
        self.january, self.february = (self._config(months) for months in (1, 2))
        self.of_january, self.of_february = map(self._undisturbed, (self.january, self.february))

    def _config(self, months: int) -> str:
        raw = self.folder / "raw"
        reviews = [f"{raw}/reviews.json.gz", f"{raw}/more/reviews.json.gz"][:months]
        inputs = {"edition": "2018", "reviews": reviews, "metadata": [f"{raw}/metadata.json.gz"]}
        sections = {**SECTIONS, "input": inputs, "sequences": {"k_core": 3}}
        path = self.folder / f"month-{months}.toml"
        return write_experiment(path, self.folder / "root", raw, sections)

    def _undisturbed(self, config: str) -> Results:
        self.clear()
        self.first.start(config)
        code, said = self.first.wait()
        assert code == 0, said
        return self.tables()

    def tables(self) -> Results:
        return table_results(self.folder / "root")

    def clear(self) -> None:
        shutil.rmtree(self.folder / "root", ignore_errors=True)


@pytest.fixture(scope="module", params=KINDS)
def months(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Months]:
    folder = tmp_path_factory.mktemp("months")
    write_catalogue(folder / "raw", num_users=80, num_items=50, seed=1)
    write_catalogue(folder / "raw/more", num_users=80, num_items=50, seed=2)
    words = ["plain"] if request.param == "plain" else []
    with EtlJob(folder, *words) as first, EtlJob(folder, *words) as second:
        yield Months(folder, first, second)


@pytest.mark.parametrize("place", PLACES)
def test_the_second_month_waits_for_the_first_and_leaves_its_own_tables(
    months: Months, place: tuple[str, str]
) -> None:
    months.clear()
    assert months.of_january != months.of_february
    months.first.start(months.january, *place)
    months.first.wait_for("paused")
    months.second.start(months.february)
    time.sleep(1.0)
    months.first.go_on()
    assert months.first.wait() == (0, "built")
    assert months.second.wait() == (0, "built")
    assert months.tables() == months.of_february


@pytest.mark.parametrize("place", PLACES)
def test_a_month_whose_job_was_suspended_ends_without_a_write(
    months: Months, place: tuple[str, str]
) -> None:
    months.clear()
    months.first.start(months.january, *place)
    months.first.wait_for("paused")
    months.first.signal(signal.SIGSTOP)
    months.second.start(months.february)
    assert months.second.wait() == (0, "built")
    months.first.signal(signal.SIGCONT)
    months.first.go_on()
    code, said = months.first.wait()
    assert code == 2 and "\n" not in said
    assert months.tables() == months.of_february
