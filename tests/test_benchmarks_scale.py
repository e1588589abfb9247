"""The measurements of growth count what processes and operators really use."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from small_dataset import small_experiment

from benchmarks.catalogue.events import Catalogue
from benchmarks.catalogue.tables import TableMaker
from benchmarks.scale import etl, load, owned
from benchmarks.scale.processes import DRIVER, JVM, OTHER, PYTHON_WORKER, Sampler, kind_of
from benchmarks.scale.results import exponent
from benchmarks.scale.writes import CountWrites, adam_seconds
from benchmarks.sizes.replicated import (
    FULL,
    Graphs,
    cooccurrence_bytes,
    full_catalogue,
    neighbor_bytes,
)
from benchmarks.training.workers import Reading

MIB = 1 << 20
CHILD = "import time; x = bytearray(150 << 20); time.sleep(.5)"
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {CHILD!r}])
print("ended", flush=True)
sys.stdin.read()
"""


def test_the_peak_of_a_child_that_has_ended_is_known():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], **pipes) as parent:
        with Sampler(parent.pid) as sampler:
            parent.stdout.readline()
            found = sampler.peaks["start"]
        parent.stdin.close()
    assert found[parent.pid].kind == DRIVER
    assert found[parent.pid].peak < 100 * MIB
    [child] = [process for pid, process in found.items() if pid != parent.pid]
    assert 150 * MIB < child.peak < 300 * MIB
    assert "bytearray" in child.command


def test_a_stage_does_not_inherit_the_peak_of_the_one_before():
    program = textwrap.dedent("""
        x = bytearray(200 << 20)
        del x
        print(flush=True)
        input()
    """)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        with Sampler(process.pid) as sampler:
            process.stdout.readline()
            sampler.begin("next")
            time.sleep(0.3)
        process.stdin.close()
    assert sampler.highest("start")[DRIVER] > 200 * MIB
    assert 0 < sampler.highest("next")[DRIVER] < 100 * MIB


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("/usr/lib/jvm/bin/java -cp spark.jar", JVM),
        ("python -m pyspark.daemon pyspark.worker", PYTHON_WORKER),
        ("sleep 1", OTHER),
    ],
)
def test_processes_have_kinds(command, kind):
    assert kind_of(command) == kind


def test_a_process_has_the_kind_of_what_it_runs_in_the_end(tmp_path):
    """Spark's Java begins as a shell script of the same process."""
    java = tmp_path / "java"
    java.symlink_to(shutil.which("sleep"))
    script = f"sh -c 'sleep 0.4; exec {java} 5' & wait"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as parent:
        with Sampler(parent.pid) as sampler:
            time.sleep(1.2)
        os.killpg(parent.pid, signal.SIGKILL)
    [found] = [one for one in sampler.peaks["start"].values() if one.command.startswith(str(java))]
    assert found.kind == JVM


def test_stages_are_those_of_the_log():
    lines = [
        {"message": "items: building"},
        {"message": "items: read 3 bytes", "table": "items", "vector_bytes": 3, "level": "info"},
        {"message": "items: built", "table": "items", "rows": 7, "seconds": 2.5},
    ]
    stages = {}
    with Sampler(os.getpid()) as sampler:
        for line in ["a line of Java", *map(json.dumps, lines)]:
            etl._follow(line, sampler, stages)
    [(name, stage)] = stages.items()
    assert (name, stage.rows, stage.seconds) == ("items", 7, 2.5)
    assert stage.figures == {"vector_bytes": 3}
    assert stage.peaks[DRIVER] > 10 * MIB


def test_growth_is_the_exponent_between_the_smallest_and_the_largest_size():
    assert exponent([10, 1000], [1.0, 100.0]) == 1.0
    stages = {n: {"items": etl.Stage(0.0, n**1.5, n, {DRIVER: 3 * MIB})} for n in (100, 10_000)}
    header, rows = etl.table(stages)
    assert [row[header.index("growth")] for row in rows] == ["1.50", "1.50"]
    assert rows[0][header.index(DRIVER)] == "3 MiB"


def test_written_bytes_are_those_of_new_tensors_and_of_changed_rows():
    table, index = torch.zeros(1000, 4), torch.tensor([1, 5, 7])
    with CountWrites() as counted:
        rows = table.index_select(0, index)
        table.view(-1)[:8]
        table.index_add_(0, index, rows)
    assert counted.of_operator == {"index_select": 3 * 16, "index_add_": 3 * 16}
    with CountWrites() as counted:
        torch.zeros(10)
        table.mul_(2)
        torch.empty(99)
    assert counted.total == 40 + table.nbytes


def test_bytes_and_seconds_of_adam_are_counted_apart():
    weights = torch.nn.Parameter(torch.zeros(100, 4))
    optimizer = torch.optim.Adam([weights], fused=True)
    weights.grad = torch.ones_like(weights)
    optimizer.step()
    with adam_seconds() as seconds, CountWrites() as counted:
        optimizer.step()
    assert len(seconds) == 1
    assert 3 * weights.nbytes <= counted.of_adam < 4 * weights.nbytes + 100
    assert counted.total < 100


def test_the_bytes_kept_by_a_load_are_those_of_its_arrays(tmp_path):
    experiment = small_experiment(tmp_path, graph={"max_neighbors": 10})
    TableMaker(experiment, Catalogue(300, 70, longest=30), 8, width=4).write_all()
    found = load.load_as_one_rank(experiment)
    assert found["kept"] > 300 * 8 * 8
    assert found["peak"] < 500 * MIB


def test_sizes_of_the_full_catalogue_by_hand():
    graphs = Graphs(modalities=2, neighbors=10, cooccurring=100)
    assert neighbor_bytes(FULL, graphs) == FULL * 2 * (8 + 11 * 8)
    assert cooccurrence_bytes(FULL, graphs) == FULL * (8 + 100 * 8)
    last = full_catalogue().splitlines()[-1].split(" | ")
    assert last[2:4] == ["12.3", "0.4"]  # 4 X D, and 8 X D / 64


def test_own_item_rows_are_compared_with_the_replicated_table() -> None:
    """The median of 90, 100 and 400 prefixes/s is 100; of 40, 50 and 60 it is 50."""
    mib = 1 << 20
    taken = {
        "replicated": [Reading(rate, 200 * mib) for rate in (400.0, 90.0, 100.0)],
        "sharded": [Reading(rate, 80 * mib) for rate in (40.0, 50.0, 60.0)],
    }
    assert owned.rows_of(4_000, 2, taken) == [
        ["4,000", "2", "replicated", "100", "1.00", "200 MiB", "1.00"],
        ["4,000", "2", "sharded", "50", "0.50", "80 MiB", "0.40"],
    ]
