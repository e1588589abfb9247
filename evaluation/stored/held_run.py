"""A run while it is evaluated: one writer, on the tables and weights that it began with."""

from collections.abc import Iterator
from contextlib import contextmanager

from mdsrec.command.heartbeat import heartbeat
from mdsrec.config import Experiment
from mdsrec.jobs.lease import Lease, check_leases, hold
from mdsrec.jobs.promises import check_opened, promised
from mdsrec.run_paths import RunPaths, run_fingerprints, weights_fingerprints
from mdsrec.table_settings import stored_fingerprints


@contextmanager
def held_run(experiment: Experiment, on_current_tables: bool = False) -> Iterator[None]:
    """Be the only job that evaluates the run; wait while another one does.

    Its weights, and the tables that they are for, are held to what they are now
    (`mdsrec.jobs.promises`); or the current tables, which may be of newer data.
    """
    paths = RunPaths.of(experiment)
    heartbeat.begin("waiting for the lease of the run's evaluation")
    lease = hold(Lease([paths.evaluation_lease]), f"evaluating {paths.uri}", waits=True)
    with (
        lease,
        promised(
            stored_fingerprints(experiment) | weights_fingerprints(experiment)
            if on_current_tables
            else run_fingerprints(experiment)
        ),
    ):
        yield


def check_held() -> None:
    """Raise InputError if the lease was lost, or if something that was read has been replaced.

    Call this before a result is written that is not a table; `tables.commit` does it itself.
    """
    check_leases()
    check_opened()
