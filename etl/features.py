"""One modality's vectors: an encoder over the items' text, or vectors that the user brings."""

import os
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.blocks import in_blocks
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

BLOCK = 128  # items encoded together; the same batches whatever the partitioning
ROWS = "item int, vector array<float>"


def encoded(items: DataFrame, config: FeatureConfig, num_items: int, num_tasks: int) -> DataFrame:
    """DataFrame(item, vector) of the items that have text, by the model `config.encoder`."""
    assert config.encoder is not None
    check_encoder(config.encoder)
    encode = partial(_encode_blocks, config.encoder, config.max_tokens)
    return (
        items.where(F.col("text").isNotNull())
        .select("item", "text")
        .transform(in_blocks, size=BLOCK, num_ids=num_items, num_tasks=num_tasks)
        .mapInArrow(encode, ROWS)
    )


def model_location(encoder: str) -> str:
    """A local folder, the `model` folder of an installed package, or else the name of a model on
    the hub.
    """
    if Path(encoder).expanduser().is_dir():
        return str(Path(encoder).expanduser())
    if encoder.isidentifier():
        spec = find_spec(encoder)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / "model").is_dir():
                return str(Path(folder) / "model")
    if encoder.startswith(("/", ".", "~")):
        raise InputError(f"encoder {encoder!r}: no such folder")
    return encoder


def check_encoder(encoder: str) -> None:
    """InputError at once where neither this machine nor the hub has the model.

    Workers would try for minutes, each on its own, before they said so.
    """
    if Path(model_location(encoder)).is_dir():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache

    name = encoder if "/" in encoder else f"sentence-transformers/{encoder}"
    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=10)
    except Exception as error:  # the hub's client raises many kinds
        raise cannot_load(encoder, error) from None


def cannot_load(encoder: str, error: Exception) -> InputError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(
        f"encoder {encoder!r} cannot be loaded ({reason}): give a local folder, an installed "
        "package that carries a model, or a sentence-transformers name this machine can reach"
    )


def encoder_identity(encoder: str) -> list[str]:
    """What tells two encoders apart: the name, and a local model's files and their sizes."""
    folder = Path(model_location(encoder))
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    return [encoder, *(f"{p.relative_to(folder)} {p.stat().st_size}" for p in files)]


@cache
def _model(encoder: str, max_tokens: int | None) -> Any:
    """The model, loaded once a worker process, on one thread: tasks are what runs in parallel."""
    os.environ |= {
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "HF_HUB_VERBOSITY": "error",
    }
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    try:
        model = SentenceTransformer(model_location(encoder), device="cpu")
    except Exception as error:  # as many kinds as there are formats
        raise cannot_load(encoder, error) from None
    if max_tokens is not None:
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


def _encode_blocks(
    encoder: str, max_tokens: int | None, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for rows in batch.column("rows").to_pylist():
            texts = [row["text"] for row in rows]
            model = _model(encoder, max_tokens)
            vectors = model.encode(texts, batch_size=32, show_progress_bar=False)
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([row["item"] for row in rows], pa.int32()),
                    pa.array(list(vectors.astype("float32")), pa.list_(pa.float32())),
                ],
                names=["item", "vector"],
            )
