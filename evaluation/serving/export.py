"""`python -m evaluation export RUN DIR`: a folder that is enough to recommend, by itself."""

import hashlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.serving import export_format
from evaluation.serving.catalogue import COLUMNS, Catalogue
from evaluation.serving.export_format import ExportManifest
from evaluation.serving.loading import run_experiment
from evaluation.serving.model_card import model_card
from evaluation.stored_weights import with_stored_weights
from mdsrec import files
from mdsrec.config import Experiment
from mdsrec.errors import InputError
from mdsrec.jobs.promises import promised
from mdsrec.run_paths import run_fingerprints
from training.data.item_tables import ItemTables, load_item_tables
from training.inference import TrainedModel, load_trained

NOT_EXPORTED = ("root", "spark", "tune", "study")  # sections that no score depends on


def export(run: str, folder: str) -> str:
    """Write the folder, and return a summary for the screen.

    The manifest is written last, so a killed export leaves a folder that is not loaded and may be
    exported into again. InputError if the folder already holds an export.
    """
    if files.read_bytes(f"{folder}/{export_format.MANIFEST}") is not None:
        raise InputError(f"{folder}: already holds an export: delete it, or choose another folder")
    experiment = run_experiment(run)
    with promised(run_fingerprints(experiment)):
        item_tables = load_item_tables(experiment)
        trained = load_trained(experiment, item_tables=item_tables)
        trained = with_stored_weights(experiment, trained)
        contents = export_files(experiment, trained, item_tables)
    for name, content in contents.items():
        files.write_bytes(f"{folder}/{name}", content)
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    del sha256[export_format.MODEL_CARD]  # may be edited
    manifest = ExportManifest(dict(trained.weight_of), sha256)
    files.write_json(f"{folder}/{export_format.MANIFEST}", vars(manifest))
    size = sum(map(len, contents.values()))
    return "\n".join(
        [
            f"{experiment.name}: {trained.num_items:,} items, {size / 2**20:,.1f} MiB",
            f"exported  {folder}",
            f"load      Recommender.load({folder!r})",
        ]
    )


def export_files(
    experiment: Experiment, trained: TrainedModel, item_tables: ItemTables
) -> dict[str, bytes]:
    """Return the content of each file, by name."""
    config = {k: v for k, v in experiment.resolved().items() if k not in NOT_EXPORTED}
    catalogue = Catalogue.read(experiment)
    contents = {
        export_format.CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
        export_format.CATALOGUE: _catalogue_file(catalogue),
        export_format.ITEM_TABLES: export_format.pack_item_tables(item_tables),
        export_format.MODEL_CARD: model_card(experiment, trained, catalogue).encode(),
    }
    if trained.model is not None:
        contents[export_format.WEIGHTS] = export_format.pack_weights(trained)
    if trained.memory is not None:
        contents[export_format.MEMORY] = export_format.pack_memory(trained.memory)
    return contents


def _catalogue_file(catalogue: Catalogue) -> bytes:
    columns = [catalogue.item_ids, catalogue.titles, pa.array(catalogue.num_train)]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, names=COLUMNS), buffer, compression="zstd")
    return buffer.getvalue()
