"""One process takes the part of one rank of many, whose answers a stub invents."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from gloo import on_ranks

from benchmarks.rehearsal.machine import Machine, this_machine
from benchmarks.rehearsal.stub import StubPeers
from benchmarks.rehearsal.world import World, write_tables
from benchmarks.sizes.seconds import Part
from training.sharding import ownership
from training.sharding.exchange import plan_rows, read_rows
from training.sharding.own_tables import ENTRIES
from training.sharding.ownership import Shards
from training.sharding.table_exchange import to_owners

ITEMS, WORKERS, RANK = 1000, 4, 2
SHARDS = Shards(4096, 4, 1)  # of 1,024 items each
PHASES = ["load", "build", "steps", "save", "restore", "validation"]


def rehearsed(folder: str, loss: str) -> dict[str, Any]:
    """Rehearse a rank of a tiny world -> bytes sent in its steps, counted and by formula."""
    from benchmarks.rehearsal import report
    from benchmarks.rehearsal.one_rank import rehearse

    ownership.BLOCK = 4
    world = World(Path(folder), ITEMS, WORKERS, RANK, dim=8, batch=200, loss=loss)
    write_tables(world)
    phases = rehearse(world, num_steps=2)
    formula = report.expected_traffic(world, phases)
    tables = report.text(world, phases, Machine(10, 100))
    sent = phases.found["steps"].bytes_sent
    return {"phases": list(phases.found), "sent": sent, "formula": formula, "tables": tables}


@pytest.mark.parametrize("loss", ["sampled", pytest.param("full", marks=pytest.mark.slow)])
def test_a_rank_trains_saves_restores_and_validates_beside_invented_peers(tmp_path, loss):
    [found] = on_ranks(1, rehearsed, str(tmp_path), loss)
    assert found["phases"] == PHASES
    sent, formula = found["sent"], found["formula"]
    # The lists that peers ask for are drawn, so their lengths are not those of the formula.
    assert sent.pop("graphs") == pytest.approx(formula.pop("graphs"), rel=0.2)
    assert sent == formula
    assert found["tables"].count("| validation |") == 1
    assert "memory at 10 GB/s and products at 100 GFLOPS" in found["tables"]
    assert not list(tmp_path.glob("**/*.safetensors"))


def test_a_part_takes_the_time_of_its_slower_resource():
    machine = Machine(gigabytes_per_second=10, gigaflops=100)
    assert machine.seconds(Part(read=20e9, flops=100e9)) == 2
    assert machine.seconds(Part(read=20e9, flops=300e9)) == 3
    assert machine.seconds(Part(sent=1e15)) == 0
    assert all(0.1 < speed < 1e5 for speed in this_machine())


def test_peers_want_as_many_own_rows_as_this_rank_wants_of_theirs():
    stub = _stub()
    ids = torch.tensor([3, 900, 1024, 1500, 2047, 2048, 4095])
    plan = plan_rows(ids, SHARDS, stub)
    assert plan.sent == plan.received == [2, 3, 1, 1]
    assert plan.wanted[2:5].tolist() == [0, 476, 1023]  # its own are the real ones
    assert ((plan.wanted >= 0) & (plan.wanted < 1024)).all()
    assert stub.bytes_sent == {"ids": 4 * 8}
    own = torch.randn(1024, 6)
    rows = read_rows(plan, own, stub)
    assert rows.shape == (7, 6)
    assert torch.equal(rows[2:5], own[[0, 476, 1023]])
    assert 0.2 < rows[[0, 1, 5, 6]].std() < 5
    assert stub.bytes_sent["rows"] == 4 * 6 * 4


def test_a_peer_sends_as_many_entries_in_own_columns_as_it_gets():
    stub = _stub()
    rows, columns = [1030, 1031, 1031], [7, 1040, 4000]
    sent = pa.record_batch([rows, columns, [0.5, 0.25, 0.125]], schema=ENTRIES)
    found = pa.Table.from_batches(to_owners(iter([sent]), _owner_of, stub), ENTRIES)
    assert found["column"].to_pylist() == [1030, 1040, 1031]
    assert found["weight"].to_pylist() == [0.5, 0.25, 0.125]
    first, own, last = found["row"].to_pylist()
    assert 0 <= first < 1024
    assert own == 1031
    assert 3072 <= last < 4096


def test_entries_of_centers_come_back_with_their_center_and_own_items():
    stub = _stub()
    sent = pa.record_batch([[0, 4, 4], [7, 1040, 4000], [0.5, 0.25, 0.125]], schema=ENTRIES)
    found = pa.Table.from_batches(to_owners(iter([sent]), _owner_of, stub), ENTRIES)
    assert found["row"].to_pylist() == [0, 4, 4]
    assert all(1024 <= column < 2048 for column in found["column"].to_pylist())


def test_the_same_seed_invents_the_same_answers():
    def answers(seed: int) -> list[torch.Tensor]:
        stub = _stub(seed)
        rows = torch.ones(2, 3)
        gathered = stub.gather("queries", rows, [2, 2, 2, 2])
        assert torch.equal(gathered[2:4], rows)
        return [gathered, stub.sum("centers", torch.arange(6.0).view(2, 3))]

    assert all(map(torch.equal, answers(0), answers(0)))
    assert not torch.equal(answers(0)[0], answers(1)[0])


def _stub(seed: int = 0) -> StubPeers:
    """Return the peers of rank 1 of 4, for 5 centers and lists of at most 3 items."""
    return StubPeers(SHARDS, 5, 3, _uniform, seed)


def _uniform(random: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    return np.sort(random.integers(4096, size=count))


def _owner_of(batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
    return SHARDS.owners(batch.column(1).to_numpy())
