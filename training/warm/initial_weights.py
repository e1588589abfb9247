"""The weights that a training starts with, without the rows of all items in memory.

A model that holds few rows draws the same numbers as one that holds all, because rows of items are
drawn in blocks. So it is built on tables that have only these rows, all of them zero.

X items, n of them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mdsrec import tables
from mdsrec.arrays import Ints
from mdsrec.config import Experiment
from mdsrec.table_names import features_name
from training.data.item_tables import ItemTables, ModalityTables, Own, load_item_tables
from training.data.sparse import SparseMatrix
from training.models.base import HeldItems, Model
from training.models.registry import build_model

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of an experiment with `num_items` items."""

    experiment: Experiment
    num_items: int

    @cached_property
    def item_parameters(self) -> frozenset[str]:
        """Return the names of the parameters with a row for each item."""
        return frozenset(self._model.item_parameters) & self._parameters.keys()

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every parameter, of all items."""
        shapes = {name: tuple(p.shape) for name, p in self._parameters.items()}
        of_items = {name: (self.num_items, *shapes[name][1:]) for name in self.item_parameters}
        return shapes | of_items

    def dense(self, name: str) -> Tensor:
        """Return a parameter without rows of items."""
        return self._parameters[name]

    def rows(self, items: Ints) -> dict[str, Tensor]:
        """Return the rows of some items in each of `item_parameters` [n, ...]."""
        if self._is_own:
            return {name: self._parameters[name][items] for name in self.item_parameters}
        drawn = _weights_of(self._with_rows(items))
        return {name: drawn[name] for name in self.item_parameters}

    @property
    def _is_own(self) -> bool:
        """Return whether the model is the user's own, which may read its tables in any way."""
        return ":" in self.experiment.model.name

    @cached_property
    def _parameters(self) -> dict[str, Tensor]:
        return _weights_of(self._model)

    @cached_property
    def _model(self) -> Model:
        """Return the model without a row of an item; one of the user's own has them all."""
        if not self._is_own:
            return self._with_rows(np.empty(0, np.int32))
        model = build_model(self.experiment, load_item_tables(self.experiment))
        model.initialize(self.experiment.seed)
        return model

    def _with_rows(self, items: Ints) -> Model:
        """Return the model with the initial rows of some items."""
        train = self.experiment.train.model_copy(
            update={"loss": "full", "untrained_items": "negatives"}  # which read no other table
        )
        experiment = self.experiment.model_copy(update={"train": train})
        model = build_model(experiment, self._empty_tables(len(items)))
        model.held = HeldItems(items, self.num_items)
        model.initialize(self.experiment.seed)
        return model

    def _empty_tables(self, num_rows: int) -> ItemTables:
        """Return tables of which a rank has `num_rows` rows without content."""
        names = self.experiment.modalities
        modalities = {name: self._empty_modality(name, num_rows) for name in names}
        own = Own(num_rows, add_up=lambda sums: sums, is_first=True)
        return ItemTables(self.num_items, _empty_matrix(num_rows), modalities, {}, own=own)

    def _empty_modality(self, name: str, num_rows: int) -> ModalityTables:
        needs = self.experiment.model.needs
        features = members = None
        if needs.features:
            uri = tables.table_uri(self.experiment.root, features_name(name))
            width = int(tables.open_table(uri).counters["width"])
            features = torch.zeros(num_rows, width)
        if needs.centers:
            members = _empty_matrix(self.experiment.model.all_num_centers()[0])
        graph = _empty_matrix(num_rows) if needs.neighbors else None
        centers = members if graph is not None else None
        return ModalityTables(graph, features, members, centers)


def _empty_matrix(num_rows: int) -> SparseMatrix:
    starts = np.zeros(num_rows + 1, np.int64)
    return SparseMatrix(starts, np.empty(0, np.int32), np.empty(0, np.float32))


def _weights_of(model: Model) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
