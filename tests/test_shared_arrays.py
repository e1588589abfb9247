"""The ranks of a host hold the item tables once."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gloo import on_ranks
from torch import distributed

from mdsrec.errors import InputError
from training.data import shared_arrays
from training.data.shared_arrays import Allocate, Built, once_per_host
from training.distributed.control import ControlGroup

LENGTH = 300_000


def built_by_me(allocate: Allocate) -> Built:
    """Return the start of an array that holds the process id of its builder, and an empty one."""
    pids = allocate(2 * LENGTH, np.int64)[:LENGTH]
    pids[:] = os.getpid()
    return Built({"pids": pids, "none": allocate((0, 3), np.float32)}, {"length": LENGTH})


def group_of_ranks() -> ControlGroup:
    return ControlGroup(timeout_minutes=1)


def loaded_once() -> list[Any]:
    built = once_per_host(built_by_me, group_of_ranks())
    pids = built.arrays["pids"]
    assert (pids == pids[0]).all()
    assert built.arrays["none"].shape == (0, 3)
    assert built.about == {"length": LENGTH}
    inodes, builder = shared_inodes(), int(pids[0])
    pids[0] = os.getpid()  # on every rank, and seen by no other
    distributed.barrier()
    assert pids[0] == os.getpid()
    return [builder, os.getpid(), inodes]


def shared_inodes() -> list[str]:
    """Return the memory files that this process maps."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[4] for line in maps if "memfd:mdsrec" in line})


def test_the_first_rank_builds_and_the_others_map_its_memory() -> None:
    found = on_ranks(3, loaded_once)
    first = found[0][1]
    assert [builder for builder, _, _ in found] == [first] * 3
    assert len({pid for _, pid, _ in found}) == 3
    assert [inodes for _, _, inodes in found] == [found[0][2]] * 3
    assert len(found[0][2]) == 1


def loaded_on_two_hosts() -> list[Any]:
    group = group_of_ranks()
    shared_arrays.host_of_process = lambda: ("host", str(group.rank % 2))
    return [int(once_per_host(built_by_me, group).arrays["pids"][0]), os.getpid()]


def test_each_host_has_its_own_builder() -> None:
    (zero, pid), (one, other), (two, _), (three, _) = on_ranks(4, loaded_on_two_hosts)
    assert (zero, one, two, three) == (pid, other, pid, other)


def refused(*_: Any) -> Any:
    raise PermissionError("not permitted")


def loaded_without(name: str, replacement: Callable[..., Any]) -> list[int]:
    setattr(shared_arrays, name, replacement)
    pids = once_per_host(built_by_me, group_of_ranks()).arrays["pids"]
    return [int(pids[0]), os.getpid()]


def no_host() -> None:
    return None


@pytest.mark.parametrize(
    ("name", "replacement"),
    [("_mapped", refused), ("host_of_process", no_host)],
    ids=["refused", "no memfd"],
)
def test_where_memory_cannot_be_shared_each_rank_builds_its_own(
    name: str, replacement: Callable[..., Any]
) -> None:
    for builder, own in on_ranks(2, loaded_without, name, replacement):
        assert builder == own


def failure(error: Exception) -> str:
    def build(allocate: Allocate) -> Built:
        allocate(5, np.int64)
        raise error

    with pytest.raises((InputError, RuntimeError)) as raised:
        once_per_host(build, group_of_ranks())
    return f"{type(raised.value).__name__}: {raised.value}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("graph: no such table"), "InputError: graph: no such table"),
        (OSError("disk\nis gone"), "RuntimeError: OSError: disk"),
    ],
)
def test_a_failure_of_the_builder_is_raised_on_every_rank(error: Exception, expected: str) -> None:
    assert on_ranks(2, failure, error) == [expected] * 2


def loaded_slowly() -> bool:
    shared_arrays.REPORT_SECONDS = 0.2

    def build(allocate: Allocate) -> Built:
        time.sleep(3)
        return built_by_me(allocate)

    return len(once_per_host(build, ControlGroup(timeout_minutes=1 / 60)).arrays) == 2


def test_those_who_wait_for_a_slow_builder_do_not_time_out() -> None:
    assert on_ranks(2, loaded_slowly) == [True, True]


def test_a_process_by_itself_builds_in_its_own_memory() -> None:
    built = once_per_host(built_by_me)
    assert built.arrays["pids"][0] == os.getpid()
    assert shared_inodes() == []
