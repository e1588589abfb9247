"""Rehearse one rank of many in one process: `python -m benchmarks.rehearsal FOLDER --items N`.

The rank's tables are made in FOLDER: its share of the graphs, and whole tables of ids and of
centers. It loads them, takes steps, saves, restores and validates a batch. What the other ranks
would send is drawn at random, so the work, the memory and the bytes are those of a rank, and the
losses mean nothing. The measured figures stand beside the formulas of `benchmarks.sizes`, and go to
FOLDER/rehearsal-LOSS.json.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rehearsal import report
from benchmarks.rehearsal.machine import this_machine
from benchmarks.rehearsal.one_rank import process_group, rehearse
from benchmarks.rehearsal.world import World
from mdsrec.command import positive_int, run_command, stage_parser
from mdsrec.command.heartbeat import heartbeat
from mdsrec.errors import InputError

PROG = "benchmarks.rehearsal"
RESULT = "rehearsal-{loss}.json"


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(PROG, (__doc__ or "").partition("\n\n")[2])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="for tables and results")
    parser.add_argument("--items", type=positive_int, required=True)
    parser.add_argument("--workers", type=positive_int, default=64, help="W (default: 64)")
    parser.add_argument("--rank", type=int, default=17, help="which of them (default: 17)")
    parser.add_argument("--dim", type=positive_int, default=64, help="D (default: 64)")
    parser.add_argument("--loss", choices=("sampled", "full"), default="sampled")
    parser.add_argument("--steps", type=positive_int, default=20)
    parser.add_argument("--batch", type=positive_int, default=16_384, help="prefixes of all ranks")
    parser.add_argument("--keep", action="store_true", help="keep the tables")
    arguments = parser.parse_args(argv)
    world = _world(arguments)
    heartbeat.begin("rehearsing")
    world.folder.mkdir(parents=True, exist_ok=True)
    world.write_tables_apart()
    try:
        with process_group():
            phases = rehearse(world, arguments.steps)
            machine = this_machine()
    finally:
        if not arguments.keep:
            shutil.rmtree(world.folder / "dataset", ignore_errors=True)
    content = {
        "world": {**world._asdict(), "folder": str(world.folder)},
        **phases.as_json(),
        "expected_peaks": report.expected_peaks(world, phases),
        "machine": machine._asdict(),
        "expected_seconds": report.expected_seconds(world, phases, machine),
    }
    (world.folder / RESULT.format(loss=world.loss)).write_text(json.dumps(content, indent=2) + "\n")
    print(report.text(world, phases, machine))


def _world(arguments: argparse.Namespace) -> World:
    """Return the world of the arguments. InputError if the rank has no items."""
    sizes = (arguments.items, arguments.workers, arguments.rank, arguments.dim)
    world = World(arguments.folder.absolute(), *sizes, arguments.batch, arguments.loss)
    if not 0 <= arguments.rank < arguments.workers:
        raise InputError(f"--rank {arguments.rank}: must be 0 to {arguments.workers - 1}")
    if not world.shards.num_own:
        raise InputError(
            f"--items {arguments.items}: rank {arguments.rank} of {arguments.workers} would own "
            "none: give more items or fewer workers"
        )
    return world


if __name__ == "__main__":
    sys.exit(run_command(PROG, main))
