"""Encoders: where a model is, what tells it from another, and the model at work in a task."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from etl.spark.gpu import gpu_of_task
from etl.spark.spans import Vectors
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

Reason = str  # why a content has no vector


class Encoder(Protocol):
    """Turns the contents of a chunk into vectors; it travels to the tasks."""

    @property
    def name(self) -> str: ...

    def encode(self, contents: Sequence[str]) -> tuple[Vectors, list[Reason | None]]:
        """The vectors of those contents that have one, in order [n, d], and for each content None
        or the reason why it has none.
        """
        ...


@dataclass(frozen=True)
class TextEncoder:
    """A sentence-transformers model over texts."""

    name: str
    max_tokens: int | None

    def encode(self, contents: Sequence[str]) -> tuple[Vectors, list[Reason | None]]:
        where = device()
        vectors = _text_model(self.name, self.max_tokens, where).encode(
            list(contents), batch_size=32 if where == "cpu" else 256, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32), [None] * len(contents)


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


def check_encoder(config: FeatureConfig) -> None:
    """InputError at once where neither this machine nor the hub has the model.

    Workers would try for minutes, each on its own, before they said so.
    """
    encoder = str(config.encoder)
    if Path(model_location(encoder)).is_dir():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache

    bare = config.sees == "text" and "/" not in encoder
    name = f"sentence-transformers/{encoder}" if bare else encoder
    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=10)
    except Exception as error:  # the hub's client raises many kinds
        raise cannot_load(encoder, error) from None


def cannot_load(encoder: str, error: Exception) -> InputError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(
        f"encoder {encoder!r} cannot be loaded ({reason}): give a local folder, an installed "
        "package that carries a model, or the name of a model that this machine can reach"
    )


def encoder_identity(encoder: str) -> list[str]:
    """What tells two encoders apart: the files of a local model, wherever it lies, or the name."""
    folder = Path(model_location(encoder))
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    return [f"{path.relative_to(folder)} {_digest(path)}" for path in files] or [encoder]


def device() -> str:
    """Where this task computes: `cpu`, or one of the GPUs, over which tasks are spread."""
    _quiet()
    import torch

    torch.set_num_threads(1)  # tasks are what runs in parallel
    if not torch.cuda.is_available():
        return "cpu"
    torch.backends.cudnn.allow_tf32 = False
    return f"cuda:{gpu_of_task(torch.cuda.device_count())}"


@cache
def _text_model(encoder: str, max_tokens: int | None, where: str) -> Any:
    """The model, loaded once a worker process."""
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(model_location(encoder), device=where).float()
    except Exception as error:  # as many kinds as there are formats
        raise cannot_load(encoder, error) from None
    if max_tokens is not None:
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


def _quiet() -> None:
    """No bars and reports in the workers' logs; the libraries read this when they are imported."""
    os.environ |= {
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "HF_HUB_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
