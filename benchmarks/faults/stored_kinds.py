"""The kinds of files below a root, and the functions by which the commands read each.

A reader gets the folder of a world and the path of a file in it. It returns a value that is
equal for equal files, and raises InputError where a command would.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.world import NAME
from etl.catalogue.content_hashes import ContentHashes
from etl.catalogue.raw import raw_files
from etl.features.vector_cache import CacheFiles
from evaluation.actors.parts import rows_of_parts
from evaluation.evaluated_run import EvaluatedRun
from evaluation.metrics.rank_parts import rank_parts
from evaluation.serving.loading import Served, run_experiment
from evaluation.stored_weights import with_stored_weights
from mdsrec import files, tables
from mdsrec.config.loading import load_experiment
from mdsrec.errors import InputError
from mdsrec.parquet_groups import check_files, open_file, read_group
from training.checkpoints.manifest import find_damage
from training.inference import load_trained
from training.lifecycle.identity import check_claim
from tuning.sweep import Sweep
from tuning.trials import TrialStore

Reader = Callable[[Path, Path], Any]
RUN, SWEEP = f"root/runs/{NAME}", f"root/sweeps/{NAME}"


@dataclass(frozen=True)
class Kind:
    """Files that are read in the same way."""

    name: str
    pattern: str  # of the path below the folder
    read: Reader
    whole: bool = False  # a damaged file is left out and made again, which the log says

    def matches(self, path: Path) -> bool:
        return re.fullmatch(self.pattern, path.as_posix()) is not None


def _table(folder: Path, path: Path) -> Any:
    """Read all rows by row groups, as training and evaluation do."""
    uri, manifest = _opened(folder, path)
    digest = hashlib.sha256()
    for group in tables.stored_groups(uri, manifest):
        with open_file(uri, group.path, group.digests) as file:
            names = file.schema_arrow.names
        for batch in read_group(uri, group, names).to_batches():
            digest.update(batch.serialize())
    return asdict(manifest), digest.hexdigest()


def _table_for_spark(folder: Path, path: Path) -> Any:
    """Check whole files, as the driver or the tasks do before Spark reads them."""
    uri, manifest = _opened(folder, path)
    paths = tables.data_files(uri, manifest)
    check_files(uri, paths, [file.digests or "" for file in manifest.files])
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]


def _opened(folder: Path, path: Path) -> tuple[str, tables.Manifest]:
    is_manifest = path.name == tables.MANIFEST
    uri = str(folder / (path.parent if is_manifest else path.parent.parent))
    return uri, tables.open_table(uri)


def _ranks(folder: Path, path: Path) -> Any:
    uri, _ = _opened(folder, path)
    return [part.rows.to_pydict() for part in rank_parts(uri)]


def _unfinished_parts(folder: Path, path: Path) -> Any:
    version = folder / path.parent
    rows_of_parts(str(version))
    return {file.name: file.read_bytes() for file in version.iterdir()}


def _cached_vectors(folder: Path, path: Path) -> Any:
    batches = CacheFiles(str(folder / path.parent), (path.name,)).batches(0)
    return {path.name: [(b.labels.to_pylist(), b.values.tobytes()) for b in batches]}


def _hashes(folder: Path, path: Path) -> Any:
    inputs = raw_files([str(folder / "raw/reviews.json.gz"), str(folder / "raw/metadata.json.gz")])
    return ContentHashes(str(folder / "root")).of_files(inputs)


def _trained(folder: Path, path: Path) -> Any:
    experiment = run_experiment(str(folder / RUN))
    trained = with_stored_weights(experiment, load_trained(experiment))
    return trained.weights_fingerprint, dict(trained.weight_of)


def _evaluated(folder: Path, path: Path) -> Any:
    run = EvaluatedRun.read(str(folder / RUN))
    return run.metrics, run.history, run.config, run.cases


def _claimed(folder: Path, path: Path) -> Any:
    experiment = run_experiment(str(folder / RUN))
    fingerprints = files.read_json(str(folder / RUN / "dataset.json"))
    check_claim(experiment, fingerprints)
    return experiment.identity(), fingerprints


def _checkpoint(folder: Path, path: Path) -> Any:
    """Verify a checkpoint as a training does that continues from it."""
    checkpoint = folder / path.parent
    if damage := find_damage(str(checkpoint)):
        raise InputError(damage)
    contents = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    return {name: content for name, content in contents.items() if name == path.name}


def _sweep(folder: Path, path: Path) -> Any:
    sweep = Sweep(str(folder / f"{NAME}.toml"), [f"root={folder}/root"])
    sweep.claim_name(resume=True)
    return files.read_json(str(folder / path))


def _trials(folder: Path, path: Path) -> Any:
    return TrialStore(str(folder / path.parent.parent)).trials


def _best(folder: Path, path: Path) -> Any:
    return load_experiment(folder / path).resolved()


def _export(folder: Path, path: Path) -> Any:
    served = Served.load(str(folder / "export"))
    trained, catalogue = served.trained, served.catalogue
    weights = trained.weights_fingerprint, trained.memory_fingerprint, dict(trained.weight_of)
    return weights, catalogue.item_ids.to_pylist(), catalogue.titles.to_pylist()


TABLE = rf"root/(dataset|runs/{NAME})/.+/"
KINDS = (
    Kind("tables", TABLE + r"[0-9a-f]{12}/part-.*\.parquet", _table),
    Kind("tables read by Spark", r"root/dataset/.+/part-.*\.parquet", _table_for_spark),
    Kind("manifests of tables", TABLE + "_manifest.json", _table),
    Kind("ranks", rf"{RUN}/ranks/.+\.parquet", _ranks),
    Kind("parts of an unfinished evaluation", r"unfinished/.+\.parquet", _unfinished_parts, True),
    Kind("cached vectors", r"cache/.+\.parquet", _cached_vectors, True),
    Kind("hashes of inputs", r"root/dataset/_content_hashes\.json", _hashes),
    Kind("best weights", rf"{RUN}/best.*\.safetensors", _trained),
    Kind("weights of channels", rf"{RUN}/weights\.json", _trained),
    Kind("checkpoints", rf"{RUN}/checkpoints/.+", _checkpoint),
    Kind("history, metrics, cases", rf"{RUN}/(history|metrics|cases)\.json", _evaluated),
    Kind("identity of a run", rf"{RUN}/(config|dataset)\.json", _claimed),
    Kind("sweep", rf"{SWEEP}/sweep\.json", _sweep),
    Kind("trials", rf"{SWEEP}/trials/.+\.json", _trials),
    Kind("best.toml", rf"{SWEEP}/best\.toml", _best),
    Kind("exported folder", r"export/(?!README).+", _export),
)


def is_remade(expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether files that a reader leaves out are all that is missing."""
    return all(value in (expected[name], []) for name, value in found.items())
