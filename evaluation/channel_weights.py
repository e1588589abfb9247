"""Choice of the channels' weights for a run with a memory, after training.

Actors score the validation targets of at most MAX_USERS users once and store the rivals of each
target in the table `rivals` of the run. The driver then searches the weights and stores them in
the run's file `weights.json`.

C channels, n rivals of a target.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import torch

from evaluation.actors.shard_worker import Shard, ShardWorker
from evaluation.pool import write_table_in_shards
from evaluation.ranking import target_batches
from evaluation.stored.held_run import check_held
from evaluation.stored_weights import PER_CHANNEL, ChosenWeights, rivals_recipe, weights_in
from evaluation.weight_search import Rivals, Scores, mean_ndcg, search_weights
from mdsrec import files, schema, tables
from mdsrec.config import Experiment
from mdsrec.run_paths import RunPaths
from training.data.sequences import Target
from training.inference import ALL, MEMORY, NETWORK, SEEN, TrainedModel, load_trained
from training.trained_run import TrainedRun, describe_trained

USER_BATCH = 32  # users scored together; the vectors of all their rivals are in memory

log = logging.getLogger("evaluation")


def load_weighted(experiment: Experiment) -> TrainedModel:
    """Load the run's model with the weights of `describe_weighted`."""
    weight_of = describe_weighted(experiment).weight_of
    return replace(load_trained(experiment), weight_of=weight_of)


def describe_weighted(experiment: Experiment) -> TrainedRun:
    """Describe the run with the weights chosen on validation, where it has a memory.

    Weights that were chosen before for the same model, data and memory are read.
    """
    trained = describe_trained(experiment)
    if SEEN not in trained.weight_of:
        return trained
    paths = RunPaths.of(experiment)
    recipe = rivals_recipe(experiment, trained)
    every = recipe.settings["every"]
    rivals = tables.find_table(paths.rivals, recipe) or write_table_in_shards(
        experiment, trained.weight_of, RivalWorker, paths.rivals, recipe, "scored", every
    )
    stored = files.read_json(paths.weights)
    if stored.get("rivals") != rivals.fingerprint:
        scores = read_rivals(paths.rivals, len(trained.channels))
        chosen = _choose(trained, rivals.fingerprint, scores)
        stored = asdict(chosen)
        check_held()
        files.write_json(paths.weights, stored)
    return replace(trained, weight_of=weights_in(stored, paths.weights))


def _choose(trained: TrainedRun, fingerprint: str, rivals: Rivals) -> ChosenWeights:
    own, num_targets = [*trained.weight_of.values()], len(rivals.counts)
    if not num_targets:
        log.warning("no validation targets: the channels keep their weights %s", own)
        return ChosenWeights(fingerprint, 0, trained.weight_of, {})
    found = search_weights(rivals, own, signed=[trained.channels.index(SEEN)])
    weights = dict(zip(trained.channels, found.weights, strict=True))
    without = [w * (name not in (MEMORY, SEEN)) for name, w in trained.weight_of.items()]
    only = [float(name == MEMORY) for name in trained.channels]
    ndcg = {
        ALL: found.ndcg,
        NETWORK: mean_ndcg(rivals, without),
        MEMORY: mean_ndcg(rivals, only),
    }
    log.info(
        "weights on %d validation targets: %s: ndcg@10 %.4f (network %.4f, memory %.4f)",
        num_targets,
        ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items()),
        *(ndcg[name] for name in (ALL, NETWORK, MEMORY)),
    )
    return ChosenWeights(fingerprint, num_targets, weights, ndcg)


def read_rivals(uri: str, num_channels: int) -> Rivals:
    """Read the table `rivals` of a run."""
    rows = tables.read_table(uri, schema.RIVALS, ["differences"])["differences"].combine_chunks()
    flat = rows.flatten().to_numpy().reshape(-1, num_channels)
    return Rivals(flat, rows.value_lengths().to_numpy().astype(np.int64) // num_channels)


class RivalWorker(ShardWorker):
    """A job that stores the scores of the rivals of validation targets.

    `options` is a number n: users 0, n, 2 n, ... are scored.
    """

    def rows(self, shard: Shard) -> pa.Table:
        every: int = self.options
        targets = self.reader.targets(shard.first, shard.last, "valid")
        chosen = [target for target in targets if target.user % every == 0]
        parts = [schema.RIVALS.empty_table()]
        for batch in target_batches(chosen, USER_BATCH * every):
            columns = {
                "user": [target.user for target in batch],
                "differences": [rivals.ravel() for rivals in self._rivals(batch)],
            }
            parts.append(pa.table(columns, schema=schema.RIVALS))
        return pa.concat_tables(parts)

    @torch.inference_mode()
    def _rivals(self, batch: list[Target]) -> Iterator[Scores]:
        """Yield the rivals' scores minus the target's [n, C] for each target.

        Items that no channel scores as high as the target are left out: they cannot outrank it. The
        channel of seen items may have a negative weight, so there any difference counts.
        """
        ranking = self.trained.ranking([target.history for target in batch])
        count, block = min(PER_CHANNEL, self.trained.num_items), self.experiment.eval.items_together
        one, none_seen = torch.ones(1), torch.empty(0, 2, dtype=torch.int64)
        best = [
            ranking.only(channel).top(one, count, block, none_seen)[1]
            for channel in range(ranking.num_channels)
        ]
        targets_B1 = torch.tensor([[target.target] for target in batch], device=best[0].device)
        items_Bn = torch.cat([targets_B1, *best], dim=1)
        scores_BnC = ranking.scores_of(items_Bn)
        signed = np.array([name == SEEN for name in self.trained.channels])
        differences_BnC = (scores_BnC - scores_BnC[:, :1]).cpu().numpy()
        for items, differences in zip(items_Bn.cpu().numpy(), differences_BnC, strict=True):
            _, first = np.unique(items, return_index=True)
            rivals = differences[first[first > 0]]  # item 0 is the target
            can_lead = np.where(signed, rivals != 0, rivals >= 0).any(axis=1)
            yield rivals[can_lead]
