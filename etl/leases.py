"""One ETL writes a table at a time, and no other ETL replaces what it reads unnoticed."""

from collections.abc import Iterator
from contextlib import contextmanager

from etl.builders.parsed_batches import FOLDER
from etl.builders.workspace import Workspace
from mdsrec.command.heartbeat import heartbeat
from mdsrec.jobs.lease import Lease, hold
from mdsrec.jobs.promises import promised

RAW_TABLES = {"interactions", "metadata", "rejects"}


@contextmanager
def only_writer(space: Workspace) -> Iterator[frozenset[str]]:
    """Hold the leases of the tables that are not up to date -> their names.

    Waits while another ETL writes one of them. All tables are held to the recipes of this
    experiment.
    """
    recipes = space.recipes.items()
    with promised({space.uri(name): recipe.fingerprint for name, recipe in recipes}, True):
        while True:
            outdated = space.outdated()
            if not outdated:
                yield frozenset()
                return
            heartbeat.begin("waiting for the leases of the tables")
            lease = Lease([f"{space.uri(name)}.writer" for name in _written(outdated)])
            with hold(lease, f"writing tables of {space.experiment.root}/dataset", waits=True):
                if outdated >= space.outdated():  # nobody replaced others meanwhile
                    yield outdated
                    return


def _written(outdated: frozenset[str]) -> frozenset[str]:
    """Return the tables that a build writes. Those of raw lines come with parsed batches."""
    return outdated | {FOLDER} if outdated & RAW_TABLES else outdated
