"""All weights of a run in one safetensors file, as inference reads them."""

import io

from torch import distributed, nn

from training.checkpoints.tensor_file import write_tensors
from training.distributed.engine_protocol import Engine
from training.distributed.zero_state import full_shapes, iterate_full_weights


def gather_weights_file(engine: Engine[nn.Module], metadata: dict[str, str]) -> bytes | None:
    """Return the content of the weights' safetensors file on rank 0, None on the others.

    Collective: one parameter at a time is gathered on every rank.
    """
    weights = (weight for _, weight in iterate_full_weights(engine))
    if distributed.get_rank():
        for _ in weights:
            pass
        return None
    stream = io.BytesIO()
    write_tensors(stream, full_shapes(engine), weights, metadata)
    return stream.getvalue()
