"""Tables of an experiment without Spark: a table has one row, a digest of all that it is made from.

Recipes, leases, fingerprints and commits are those of the ETL. A table that was made from inputs of
other settings has another row.
"""

from functools import partial

import pyarrow as pa

from etl.builders.workspace import Workspace
from etl.leases import only_writer
from etl.run import _build_outdated
from etl.status import Build
from mdsrec import tables
from mdsrec.config import Experiment
from mdsrec.run_tables import is_needed
from mdsrec.tables import Manifest, fingerprint

ROW = pa.schema([("digest", pa.string())])


def build_plain_tables(experiment: Experiment) -> Build:
    """Build the tables that are missing or outdated, as `etl.run.build_with_reasons` does."""
    space, built = Workspace(experiment), Build()
    with only_writer(space) as leased:
        for name in space.recipes:
            _build_outdated(space, leased, built, {name: partial(_write, space, name)})
    return built


def _write(space: Workspace, name: str) -> Manifest:
    recipe = space.recipes[name]
    read = [
        tables.read_table(space.uri(each), ROW) for each in recipe.inputs if each in space.recipes
    ]
    digests = [rows["digest"].to_pylist() for rows in read]
    row = fingerprint([name, dict(recipe.settings), digests])
    batch = pa.record_batch([[row]], schema=ROW)
    needed = partial(is_needed, space.experiment.root, name)
    return tables.write_table(space.uri(name), [batch], ROW, recipe, needed=needed)
