"""Flip single bits of the files of a small root, and read each as the commands do.

A try flips one bit of a copy. Its reader must return the undisturbed value, or raise one line that
names the file.
"""

import argparse
import os
import random
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.faults.stored_kinds import KINDS, RUN, Kind, is_remade
from benchmarks.faults.tries import Answer, Try, report
from benchmarks.faults.world import NAME, whole_world
from etl.features.vector_cache import write_cache_file
from mdsrec.command import path
from mdsrec.errors import InputError
from mdsrec.files import first_line

EDGE = 300  # bytes at both ends, where headers and footers are: every second bit is of these


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, help="folder for the small root and the results")
    parser.add_argument("--tries", type=int, default=640, help="flipped bits (default: 640)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bits (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.folder)
    made, world = whole_world(folder / "made").parent, folder / "world"
    shutil.rmtree(folder / "copy", ignore_errors=True)
    if not world.exists():
        _link(made, world)
        _add_remade_files(world)
    numbers = random.Random(arguments.seed)
    each = -(-arguments.tries // len(KINDS))
    tries = [one for kind in KINDS for one in _tries(kind, world, numbers, each)]
    report(folder, "bits", tries)


def _add_remade_files(world: Path) -> None:
    """Add parts of an evaluation that was stopped, and a cache of vectors."""
    parts = (world / RUN / "ranks").glob("*/*.parquet")
    (world / "unfinished").mkdir()
    for part in parts:
        os.link(part, world / "unfinished" / part.name)
    (world / "cache").mkdir()
    keys = pa.array([bytes([number] * 32) for number in range(40)], pa.binary())
    vectors = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    write_cache_file(str(world / "cache"), keys, vectors)


def _tries(kind: Kind, world: Path, numbers: random.Random, count: int) -> Iterator[Try]:
    """Yield the tries of a kind; its files take turns."""
    every = (file.relative_to(world) for file in sorted(world.rglob("*")) if file.is_file())
    found = [file for file in every if kind.matches(file)]
    assert found, kind.name

    @cache
    def expected(file: Path) -> Any:
        return kind.read(world, file)

    for number in range(count):
        file = found[number % len(found)]
        place, bit = _place((world / file).stat().st_size, numbers), numbers.randrange(8)
        copy = world.parent / "copy" / f"{kind.name.replace(' ', '-')}-{number}"
        _link(world, copy)
        _flip(copy / file, place, bit)
        yield _answer(kind, f"bit {bit} of byte {place} of {file}", copy, file, expected(file))
        shutil.rmtree(copy)


def _place(size: int, numbers: random.Random) -> int:
    """Return a byte of a file, every second time near its beginning or end."""
    if numbers.random() < 0.5:
        return numbers.randrange(size)
    near = numbers.randrange(min(EDGE, size))
    return numbers.choice([near, size - 1 - near])


def _answer(kind: Kind, fault: str, copy: Path, file: Path, expected: Any) -> Try:
    try:
        found = kind.read(copy, file)
    except InputError as error:
        line = str(error)
        named = file.name in line and "\n" not in line
        return Try(kind.name, fault, Answer.LINE if named else Answer.TRACEBACK, line)
    except Exception as error:  # any other is a traceback of the command
        said = f"{type(error).__name__}: {first_line(error)}"
        return Try(kind.name, fault, Answer.TRACEBACK, said)
    right = is_remade(expected, found) if kind.whole else found == expected
    return Try(kind.name, fault, Answer.SAME if right else Answer.SILENT)


def _flip(file: Path, place: int, bit: int) -> None:
    """Flip a bit of a file of which another folder has a link."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.unlink()
    file.write_bytes(content)


def _link(folder: Path, copy: Path) -> None:
    """Copy the stored files of a folder by links; no reader changes a file in place."""
    for name in ("root", "raw", "export", "unfinished", "cache"):
        if (folder / name).exists():
            shutil.copytree(folder / name, copy / name, copy_function=os.link)
    shutil.copy(folder / f"{NAME}.toml", copy / f"{NAME}.toml")
