"""The request of one reading, a JSON file that the measured process reads.

Only the standard library is imported, because a peer's environment has none of our packages.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

Method = Literal["train", "rank", "fit"]
TOP = 20  # items of a list
CUTOFFS = (10, 20)


@dataclass(frozen=True)
class Request:
    """Sizes and settings of a SASRec, the data, and what to measure.

    The method `train` measures the rate of training, and `rank` that of lists for `rank_users`
    users. `fit` trains with early stopping and returns metrics.
    """

    method: Method
    split: str  # the file of `split.py`
    dim: int
    num_layers: int
    num_heads: int
    dropout: float
    max_length: int
    lr: float
    seed: int
    max_epochs: int
    patience: int
    threads: int
    seconds: float  # of a reading of training
    rank_users: int
    negatives: int  # 0: softmax over all items
    precision: str  # of training, as in `train.precision`
    batch_users: int = 128  # sequences of a step of the peer
    form: str = ""  # one of `Peer.forms`

    @property
    def lightning_precision(self) -> Literal["bf16-mixed", "32-true"]:
        """Return the precision in the words of Lightning."""
        return "bf16-mixed" if self.precision == "bf16" else "32-true"

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))
