"""Broken configurations, paths, environments and JSON files: one line and exit code 2, or it works.

No cluster, no GPU, no network: commands stop before Ray and Spark start, unless the fault is none.
"""

import argparse
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.hostile_files import INPUTS, JSON_DAMAGE, ROOTS, TOML_FILES
from benchmarks.faults.tries import Answer, Try, answered, report
from benchmarks.faults.world import NAME, Ended, catalogue, command, world

VALUES = (  # of overrides, whatever the key wants
    *("1e400", "-1e400", "nan", "-1", "0", "1" + "0" * 30, "9" * 5000, "0x" + "f" * 5000),
    *("[]", "{}", "true", '""', "x" * 3000, '"\\u0000"', '"\\ud800"', '"~nosuchuser/x"'),
    *("[" * 3000, "1979-05-27", '"../../x"', '"a\\nb"', "[1, [2, [3]]]", "'--help'"),
)
KEYS = (
    *("name", "root", "seed", "input.reviews", "input.edition", "sequences.k_core", "optim.lr"),
    *(
        "sequences.cut",
        "features.image.vectors",
        "graph.mu",
        "spark.partitions",
        "train.max_epochs",
    ),
    *("spark.driver_memory", "model.dim", "model.num_centers", "train.num_workers", "eval.cutoffs"),
    *("tune.trials", "tune.space.optim.lr", "eval.pictures", "train.timeout_minutes", "model"),
)
ENVIRONMENTS: tuple[Mapping[str, str | None], ...] = (
    {"MDSREC_LOG": "debug"},
    {"MDSREC_LOG": "nonsense"},
    {"MDSREC_LOG": ""},
    {"MDSREC_LOG": "10"},
    {"MDSREC_LOG_FORMAT": "xml"},
    {"MDSREC_LOG_FORMAT": "json"},
    {"HOME": None},
    {"HOME": "/nowhere"},
    {"LANG": "C", "LC_ALL": "C"},
    {"TMPDIR": "/nowhere"},
    {"PYTHONIOENCODING": "ascii"},
    {"COLUMNS": "x"},
)


KINDS = ("configuration", "override", "root", "input", "environment", "JSON")


@dataclass(frozen=True)
class Fault:
    """A command that is run in a world with a fault."""

    kind: str
    what: str
    words: Sequence[str]
    environment: Mapping[str, str | None] = field(default_factory=dict)
    refused: bool = False  # exit code 0 would be silence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to work and report")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="of faults (default: all)")
    parser.add_argument("--tries", type=int, default=160, help="at most so many (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    """Make each fault, run its command, and report the answers."""
    folder = arguments.folder.absolute()
    config, rng = catalogue(folder / "world"), random.Random(arguments.seed)
    work = folder / "configurations"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    kinds: dict[str, Callable[[], Iterable[Fault]]] = {
        "configuration": lambda: _toml_files(config, work, rng),
        "override": lambda: _overrides(config, rng),
        "root": lambda: _roots(config, work),
        "input": lambda: _inputs(config, work),
        "environment": lambda: _environments(config),
        "JSON": lambda: _json_files(world(folder / "world"), work, rng),
    }
    faults = [fault for name in arguments.kinds or kinds for fault in kinds[name]()]
    if len(faults) > arguments.tries:
        faults = rng.sample(faults, arguments.tries)
    tries = [_try(fault, work) for fault in faults]
    report(folder, "configurations", tries)


def _try(fault: Fault, work: Path) -> Try:
    ended = command(fault.words, work, fault.environment)
    found = answered(fault.kind, fault.what, ended.code, ended.output, not fault.refused)
    if found.answer == Answer.LINE and not _is_one_line(ended, fault.words[0]):
        return Try(
            fault.kind, fault.what, Answer.TRACEBACK, f"exit code {ended.code}: {found.said}"
        )
    return found


def _is_one_line(ended: Ended, stage: str) -> bool:
    """Return whether a command ended with code 2 and a line that begins with its name."""
    last = ended.output.strip().splitlines()[-1:]
    return ended.code == 2 and bool(last) and stage.split()[0] in last[0].partition(":")[0]


def _toml_files(config: Path, work: Path, rng: random.Random) -> Iterator[Fault]:
    """Yield faults of the configuration file itself: cut off, replaced, or no file at all."""
    content = config.read_bytes()
    for number in range(12):
        place = rng.randrange(1, len(content))
        file = work / f"cut-{number}.toml"
        file.write_bytes(content[:place])
        yield Fault("configuration", f"cut off at byte {place}", ["etl", "status", str(file)])
    for number in range(12):
        place, byte = rng.randrange(len(content)), rng.randrange(256)
        file = work / f"byte-{number}.toml"
        file.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
        what = f"byte {place} is {byte}"
        yield Fault("configuration", what, ["etl", "status", str(file)])
    for name, broken in TOML_FILES.items():
        file = work / f"{name.replace(' ', '-')}.toml"
        file.write_bytes(broken)
        yield Fault("configuration", name, ["etl", "status", str(file)], refused=True)
    for path in (str(work), "/dev/null", "x" * 5000 + ".toml", "~nosuchuser/a.toml", "", "."):
        yield Fault("configuration", f"path {path[:40]!r}", ["etl", "status", path], refused=True)


def _overrides(config: Path, rng: random.Random) -> Iterator[Fault]:
    pairs = [(key, value) for key in KEYS for value in VALUES]
    for key, value in rng.sample(pairs, 48):
        words = ["etl", "status", str(config), f"{key}={value}"]
        yield Fault("override", f"{key}={value[:40]}", words)


def _roots(config: Path, work: Path) -> Iterator[Fault]:
    """Yield roots that cannot be used, for a stage that writes and one that reads."""
    (work / "file").write_text("a file")
    (work / "dangling").symlink_to("nowhere/at/all")
    (work / "loop").symlink_to("loop")
    for name, root in ROOTS.items():
        override = f"root={root.format(work=work)}"
        for stage in ("etl", "training"):
            yield Fault("root", f"{stage}: {name}", [stage, str(config), override], refused=True)


def _inputs(config: Path, work: Path) -> Iterator[Fault]:
    folder = work / "inputs"
    folder.mkdir()
    root = f"root={work}/new-root"
    for name, make in INPUTS.items():
        override = f'input.reviews=["{make(folder)}"]'
        yield Fault("input", name, ["etl", str(config), root, override], refused=True)


def _environments(config: Path) -> Iterator[Fault]:
    for environment in ENVIRONMENTS:
        what = ", ".join(f"{name}={value}" for name, value in environment.items())
        yield Fault("environment", what, ["etl", "status", str(config)], environment)


def _json_files(config: Path, work: Path, rng: random.Random) -> Iterator[Fault]:
    """Yield torn and edited JSON of a run, for the command that reads it.

    Edited means that every number is a text, or that a key is another one: that must be noticed.
    """
    run = config.parent / "root" / "runs" / NAME
    for name in ("history.json", "metrics.json", "cases.json", "config.json"):
        content = (run / name).read_bytes()
        for damage, edit in JSON_DAMAGE.items():
            copy = work / f"{name}-{damage.replace(' ', '-')}"
            shutil.copytree(run, copy)
            (copy / name).write_bytes(edit(content, rng))
            words = ["evaluation", "compare", str(run), str(copy)]
            refused = (name, damage) not in UNREAD
            yield Fault("JSON of a run", f"{name}: {damage}", words, refused=refused)


UNREAD = {("config.json", damage) for damage in ("numbers as text", "no keys", "a key renamed")}
UNREAD |= {("metrics.json", "a key renamed")}
"""Edits of what a comparison shows, at most."""
