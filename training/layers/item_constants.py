"""Constant rows of items inside a model, such as feature vectors.

X items, n of them, F numbers of an item. Where ranks own items, a rank holds the rows of its own,
and a step finds those of its items in what it has read from their owners.
"""

from torch import Tensor, nn

from training.data.batch import ItemRows


class ItemConstants(nn.Module):
    """A row of F numbers for each item."""

    rows: Tensor

    def __init__(self, rows_XF: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows_XF, persistent=False)
        self.name = ""  # in the model
        self.read: ItemRows | None = None  # by the owners' plan; set while a step reads

    def forward(self, items: Tensor | None) -> Tensor:
        """Return the rows of the items (None: all that this rank holds) -> [n, F]."""
        if items is None:
            return self.rows
        return self.rows[items] if self.read is None else self.read.at(self.name, items)


def constants_of(model: nn.Module) -> dict[str, ItemConstants]:
    """Return the constant rows inside a model by name."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, ItemConstants)}
    for name, constants in found.items():
        constants.name = name
    return found
