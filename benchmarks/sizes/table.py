"""The tables of a catalogue: memory, bytes sent, operations and seconds of one rank."""

from collections.abc import Mapping

from benchmarks.sizes import flops, memory, seconds, traffic
from benchmarks.sizes.replicated import Setting, bytes_an_item
from benchmarks.sizes.seconds import Gpu, Use
from benchmarks.sizes.shape import Counts, Shape, expected_graphs, replicated_counts
from mdsrec.text import markdown_table

GB = 1e9
LOSSES = {"sampled": False, "full": True}


def memory_table(shape: Shape, counts: Counts) -> str:
    """Return the GB of a rank by kind; the replicated form is that of ZeRO stage 1.

    The last rows grow with all items, whatever the number of ranks.
    """
    graphs = expected_graphs(shape)
    by_loss = {
        loss: memory.of_training(shape, graphs, counts, full) for loss, full in LOSSES.items()
    }
    working = {
        "a step": memory.of_step(shape, counts),
        "a validation": memory.of_validation(shape, counts),
    }
    kinds = list(dict.fromkeys([kind for held in by_loss.values() for kind in held]))
    rows = [[kind, *(_gb(held.get(kind, 0)) for held in by_loss.values()), "-"] for kind in kinds]
    rows.append(["held in all", *(_gb(sum(held.values())) for held in by_loss.values()), "-"])
    rows += [[f"beside that, {kind}", _gb(size), _gb(size), "-"] for kind, size in working.items()]
    peaks = [memory.peak(shape, graphs, counts, full) for full in LOSSES.values()]
    rows.append(["peak", *map(_gb, peaks), _gb(_replicated(shape))])
    of_all = {kind: _gb(size) for kind, size in memory.of_all_items(shape).items()}
    rows.append(["host, all items: places", of_all["places"], of_all["places"], "-"])
    for kind in ("popularity", "in_batch"):
        rows.append([f"host, all items: negatives {kind}", of_all[kind], "-", of_all[kind]])
    return markdown_table(["GB of a rank", "sampled", "full", "replicated"], rows)


def _replicated(shape: Shape) -> float:
    """Return the bytes of a rank at the peak of the replicated form, at ZeRO stage 1."""
    setting = Setting(shape.workers, 1)
    return shape.items * bytes_an_item(shape.dim, shape.modalities, shape.neighbors - 1, setting)


def traffic_table(shape: Shape, counts: Counts, use: Use) -> str:
    """Return the MB that a rank sends by kind, in a step of the replicated form too."""
    parts = {
        "load": traffic.of_load(shape),
        **{f"step, {loss}": traffic.of_step(shape, counts, full) for loss, full in LOSSES.items()},
        "ranking": traffic.of_ranking(shape, round(use.users / shape.workers)),
        **{
            f"replicated step, {loss}": traffic.of_replicated_step(shape, counts, full)
            for loss, full in LOSSES.items()
        },
    }
    kinds = list(dict.fromkeys(kind for sent in parts.values() for kind in sent))
    rows = [[kind, *(_mb(sent.get(kind, 0)) for sent in parts.values())] for kind in kinds]
    rows.append(["in all", *(_mb(sum(sent.values())) for sent in parts.values())])
    return markdown_table(["MB sent by a rank", *parts], rows)


def flops_table(shape: Shape, counts: Counts) -> str:
    """Return the operations of a step by part in both forms, in 10^9."""
    sharded, whole = (shape, counts, expected_graphs(shape)), replicated_counts(shape, counts)
    columns = {
        name: flops.of_step(of_shape, of_counts, graphs, full)
        for form, (of_shape, of_counts, graphs) in (("", sharded), ("replicated, ", whole))
        for name, full in ((f"{form}{loss}", full) for loss, full in LOSSES.items())
    }
    rows = [
        [part, *(f"{found[part] / 1e9:,.1f}" for found in columns.values())]
        for part in columns["full"]
    ]
    return markdown_table(["GFLOP of a rank's step", *columns], rows)


def seconds_table(shape: Shape, counts: Counts, use: Use, gpu: Gpu) -> str:
    """Return the seconds of each part in both forms, and whether a GPU can hold it."""
    forms = {
        "sharded": seconds.sharded(shape, counts, use),
        "replicated": seconds.replicated(shape, counts, use),
    }
    rows = [
        [part, *(f"{of_form[part].seconds(gpu, shape.workers):,.3f}" for of_form in forms.values())]
        for part in forms["sharded"]
    ]
    peak = memory.peak(shape, expected_graphs(shape), counts, full=True)
    needed = {"sharded": peak, "replicated": _replicated(shape)}
    rows.append(["fits", *("yes" if s <= gpu.memory_gb * GB else "no" for s in needed.values())])
    return markdown_table(["seconds", *forms], rows)


def beside(measured: Mapping[str, float], formula: Mapping[str, float]) -> list[list[str]]:
    """Return a row for each kind: what was counted, what the formula says, and their ratio."""
    kinds = list(dict.fromkeys([*measured, *formula]))
    rows = []
    for kind in kinds:
        counted, expected = measured.get(kind, 0), formula.get(kind, 0)
        ratio = f"{counted / expected:.3f}" if expected else "-"
        rows.append([kind, f"{counted:,.0f}", f"{expected:,.0f}", ratio])
    return rows


def _gb(size: float) -> str:
    return f"{size / GB:,.2f}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.2f}"
