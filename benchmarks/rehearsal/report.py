"""What a rehearsal measured, beside the formulas of `benchmarks.sizes`."""

from collections import Counter
from collections.abc import Iterator

from benchmarks.rehearsal.machine import Machine
from benchmarks.rehearsal.phases import STEPS, Phases
from benchmarks.rehearsal.world import MOST_COOCCURRENCES, VALIDATED_OF_RANK, World
from benchmarks.sizes import memory, traffic
from benchmarks.sizes.seconds import sharded_step
from benchmarks.sizes.shape import Counts, Shape
from benchmarks.sizes.table import beside
from mdsrec.text import markdown_table


def text(world: World, phases: Phases, machine: Machine) -> str:
    """Return the tables of memory and seconds, and of bytes sent, and the seconds of a step."""
    steps = phases.found[STEPS]
    expected = expected_seconds(world, phases, machine)
    pace = (
        f"seconds of a step: {steps.seconds / steps.times:,.2f}, "
        f"{expected / steps.times:,.2f} by formula, which takes memory at "
        f"{machine.gigabytes_per_second:,.0f} GB/s and products at {machine.gigaflops:,.0f} GFLOPS"
    )
    return "\n\n".join([_phases_table(world, phases), *_traffic_tables(world, phases), pace])


def expected_peaks(world: World, phases: Phases) -> dict[str, int]:
    """Return the bytes of each phase by formula, beside the process without data."""
    assert phases.graphs is not None
    largest = max(_counts(phases), key=lambda counts: counts.prefixes)
    return memory.by_phase(_shape(world), phases.graphs, largest, world.loss == "full")


def expected_traffic(world: World, phases: Phases) -> dict[str, int]:
    """Return the bytes by kind of all steps."""
    total: Counter[str] = Counter()
    for counts in _counts(phases):
        total.update(traffic.of_step(_shape(world), counts, world.loss == "full"))
    return dict(total)


def expected_seconds(world: World, phases: Phases, machine: Machine) -> float:
    """Return the seconds of all steps by formula, without the exchange."""
    assert phases.graphs is not None
    shape, graphs, full = _shape(world), phases.graphs, world.loss == "full"
    parts = (sharded_step(shape, counts, graphs, full) for counts in _counts(phases))
    return sum(map(machine.seconds, parts))


def _shape(world: World) -> Shape:
    shape = Shape.of(world.experiment, world.items, world.workers, MOST_COOCCURRENCES)
    return shape._replace(own=world.shards.num_own)


def _counts(phases: Phases) -> list[Counts]:
    return [Counts(**fields) for fields in phases.found[STEPS].figures["counts"]]


def _phases_table(world: World, phases: Phases) -> str:
    """Return seconds and peak of each phase; the peak by formula begins with the process before."""
    rows = []
    expected = expected_peaks(world, phases)
    for name, phase in phases.found.items():
        peak = phases.before + expected[name]
        cells = [f"{phase.seconds:,.1f}", f"{phase.cpu_seconds:,.1f}", _gib(phase.peak)]
        rows.append([name, *cells, _gib(peak), f"{phase.peak / peak:.2f}"])
    header = ["phase", "seconds", "CPU s", "VmHWM, GiB", "by formula", "ratio"]
    return markdown_table(header, rows)


def _traffic_tables(world: World, phases: Phases) -> Iterator[str]:
    """Yield the bytes sent in the steps, and in the ranking of a validation."""
    steps = phases.found[STEPS]
    formula = expected_traffic(world, phases)
    yield _table(f"bytes sent in {steps.times} steps", steps.bytes_sent, formula)
    sent = phases.found["validation"].bytes_sent.get("ranking", 0)
    of_ranking = traffic.of_ranking(_shape(world), VALIDATED_OF_RANK)
    yield _table("bytes sent in a validation", {"ranking": sent}, of_ranking)


def _table(what: str, sent: dict[str, int], formula: dict[str, int]) -> str:
    return markdown_table([what, "counted", "by formula", "ratio"], beside(sent, formula))


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"
