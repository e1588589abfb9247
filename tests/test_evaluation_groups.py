"""Groups of actors that a job leaves to the next job of the same command."""

import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from random_runs import TWO_USERS, write_weights
from small_dataset import small_experiment, write_dataset

from evaluation import pool
from evaluation.actors import job_groups
from evaluation.actors.group import Group
from evaluation.actors.job_groups import keeping_groups
from evaluation.actors.shard_worker import AskedWorker
from evaluation.pool import Pool, ask_worker, shards_of
from evaluation.recommend import Options, recommend
from evaluation.run import evaluate
from evaluation.workers import RankWorker
from mdsrec.config import Experiment
from training.inference import ALL, load_trained

WEIGHT_OF = {"fused": 2.0, "text": 1.0, "image": 1.0}

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shared_ray: None) -> Experiment:
    experiment = small_experiment(tmp_path_factory.mktemp("run"), eval=TWO_USERS)
    write_dataset(experiment)
    write_weights(experiment, seed=1)
    return experiment


@pytest.fixture
def new_groups(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Return a list that gets each new group of actors, in order of their starts."""
    started: list[Group] = []

    class Counted(Group):
        def __init__(self, *arguments: Any) -> None:
            started.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(job_groups, "Group", Counted)
    return started


def who(run: Experiment, weight_of: dict[str, float] = WEIGHT_OF, options: Any = None) -> Any:
    """Return the process of an actor, whether it had the item vectors, weights and options."""

    class Who(AskedWorker):  # here, so that it is sent to the actor: tests are no package
        def answer(self) -> tuple[int, bool, list[float], Any]:
            had_vectors = "_item_vectors" in vars(self.trained)
            self.trained.item_vectors()
            weights = self.trained.sums[ALL].tolist()
            return os.getpid(), had_vectors, weights, self.options

    return ask_worker(Who, run, weight_of, options)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_jobs_of_one_command_share_the_process_and_the_loaded_model(run: Experiment) -> None:
    with keeping_groups():
        first, second = who(run), who(run, WEIGHT_OF | {"text": 3.0}, "options of the second")
    assert first[0] == second[0]
    assert first[1:] == (False, [2.0, 1.0, 1.0], None)
    assert second[1:] == (True, [2.0, 3.0, 1.0], "options of the second")
    wait_for_end(first[0])


@pytest.mark.slow
def test_jobs_of_one_command_share_the_actors_that_hold_shares_of_the_items(
    run: Experiment,
) -> None:
    settings = run.eval.model_copy(update={"item_shards": 2})
    shared = run.model_copy(update={"eval": settings})
    with keeping_groups():
        pids = {who(shared)[0] for _ in range(2)}
        assert len(pids) == 1
        assert who(run)[0] not in pids


def test_an_evaluation_and_recommend_start_one_group_each(
    run: Experiment, new_groups: list[Group]
) -> None:
    evaluate(run)
    assert len(new_groups) == 1
    recommend(run, Options(5, False))
    assert len(new_groups) == 2


def test_a_job_by_itself_ends_its_group(run: Experiment) -> None:
    pid = who(run)[0]
    wait_for_end(pid)


@pytest.mark.slow
def test_another_run_gets_another_group(run: Experiment, tmp_path: Path) -> None:
    other = small_experiment(tmp_path, eval=TWO_USERS)
    write_dataset(other)
    write_weights(other, seed=2)
    with keeping_groups():
        assert who(run)[0] != who(other)[0]


def test_a_group_that_died_while_it_waited_is_replaced(run: Experiment) -> None:
    with keeping_groups():
        pid = who(run)[0]
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        assert who(run)[0] != pid


@pytest.mark.slow
def test_more_groups_may_have_died_than_one_job_may_lose(
    run: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SPARE_ACTORS", 1)
    weight_of = load_trained(run).weight_of
    with keeping_groups():
        with Pool(RankWorker, 2, run, weight_of, None) as groups:
            assert len(dict(groups.run(shards_of(40, run.eval), str(tmp_path)))) == 20
        assert len(job_groups._Left.groups) == 2
        for group in job_groups._Left.groups:
            group.kill()
        assert is_running(who(run)[0])


@pytest.mark.slow
def test_a_job_that_fails_leaves_no_group(run: Experiment) -> None:
    class Fails(AskedWorker):
        def answer(self) -> Any:
            raise ValueError(os.getpid())

    with keeping_groups():
        with pytest.raises(ValueError) as raised:
            ask_worker(Fails, run, WEIGHT_OF, None)
        wait_for_end(raised.value.cause.args[0])
        assert who(run)[0] != raised.value.cause.args[0]


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [True, False])
def test_parts_are_the_same_in_groups_that_were_left(
    run: Experiment, tmp_path: Path, keeps: bool, new_groups: list[Group]
) -> None:
    weight_of = load_trained(run).weight_of
    shards = shards_of(12, run.eval)
    expected: dict[str, bytes] = {}
    with keeping_groups() if keeps else nullcontext():
        for number in range(2):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            with Pool(RankWorker, 1, run, weight_of, None) as groups:
                assert [shard for shard, _ in groups.run(shards, str(folder))] == shards
            found = {path.name: path.read_bytes() for path in folder.iterdir()}
            assert not expected or found == expected
            expected = found
    assert len(expected) == len(shards)
    assert len(new_groups) == (1 if keeps else 2)
