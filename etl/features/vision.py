"""Image encoders: any transformers vision model, from image files or addresses to vectors."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from etl.features.download import MissedError, Pace, fetch
from etl.features.encoders import Reason, cannot_load, device, model_location
from etl.features.images import decoded, read_file
from etl.spark.spans import Vectors
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.float32]  # [3, height, width]

THREADS = 4  # of a task: images are waited for, read and decoded side by side


@dataclass(frozen=True)
class Fetching:
    """How a task fetches addresses."""

    timeout: float
    retries: int
    interval: float  # seconds between two requests of the task

    @classmethod
    def of(cls, config: FeatureConfig, num_tasks: int) -> "Fetching":
        """A task's share where `num_tasks` run at a time."""
        return cls(config.timeout, config.retries, num_tasks / config.requests_per_second)


@dataclass(frozen=True)
class ImageEncoder:
    """A transformers vision model over the URIs of files or, with `fetching`, over addresses."""

    name: str
    fetching: Fetching | None

    def encode(self, contents: Sequence[str]) -> tuple[Vectors, list[Reason | None]]:
        where = device()
        model = _vision_model(self.name, where)
        pixels = partial(_pixels, model, self._reader())
        size = 16 if where == "cpu" else 128
        missed: list[Reason | None] = []
        vectors = []
        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, len(contents), size):
                batch = list(pool.map(pixels, contents[first : first + size]))
                missed += [found if isinstance(found, str) else None for found in batch]
                if images := [found for found in batch if not isinstance(found, str)]:
                    vectors.append(model.vectors(images))
        return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), missed

    def _reader(self) -> Callable[[str], bytes]:
        if (how := self.fetching) is None:
            return read_file
        pace = Pace(how.interval)
        return lambda address: fetch(address, how.timeout, how.retries, pace)


@dataclass(frozen=True)
class _VisionModel:
    """A model on its device, with the processor that its images go through."""

    name: str
    model: Any
    processor: Any
    pooled: bool  # its pooler, if it has one, is trained

    def pixels(self, image: "Image.Image") -> Pixels:
        prepared = self.processor(images=[image], return_tensors="np")
        return np.asarray(prepared["pixel_values"][0], np.float32)

    def vectors(self, images: list[Pixels]) -> Vectors:
        """[n, d]: what there is first of the features that a full CLIP or SigLIP compares with
        texts, the output of a projection, that of a trained pooler, the class token, the mean over
        the feature map of a convolution.
        """
        import torch

        if len({image.shape for image in images}) > 1:
            raise InputError(
                f"encoder {self.name!r} prepares images of different sizes: let its "
                "preprocessor_config.json crop or resize them to one"
            )
        x = torch.from_numpy(np.stack(images)).to(self.model.device)
        with torch.inference_mode():
            return np.asarray(self._features(x).flatten(1).float().cpu().numpy())

    def _features(self, x: Any) -> Any:
        if hasattr(self.model, "get_image_features"):
            return self.model.get_image_features(pixel_values=x).pooler_output
        found = self.model(pixel_values=x)
        if (projected := found.get("image_embeds")) is not None:
            return projected
        if self.pooled and (pooled := found.get("pooler_output")) is not None:
            return pooled
        hidden = found.last_hidden_state
        return hidden[:, 0] if hidden.ndim == 3 else hidden.mean(dim=(2, 3))


def _pixels(model: _VisionModel, read: Callable[[str], bytes], content: str) -> Pixels | Reason:
    try:
        return model.pixels(decoded(read(content)))
    except MissedError as missed:
        return str(missed)


@cache
def _vision_model(encoder: str, where: str) -> _VisionModel:
    """The model, loaded once a worker process; Pillow prepares its images on every machine."""
    try:
        import transformers

        place = model_location(encoder)
        auto: Any = transformers.AutoImageProcessor
        processor = auto.from_pretrained(place, backend="pil")
        kind = (transformers.AutoConfig.from_pretrained(place).architectures or [""])[0]
        projects = kind.endswith("VisionModelWithProjection")
        model, report = (
            getattr(transformers, kind) if projects else transformers.AutoModel
        ).from_pretrained(place, output_loading_info=True)
        missing = sorted(report["missing_keys"])
        if lost := [key for key in missing if "pooler" not in key]:
            raise ValueError(f"its files lack the weights {lost[0]}")
    except Exception as error:  # as many kinds as there are formats
        raise cannot_load(encoder, error) from None
    return _VisionModel(encoder, model.float().eval().to(where), processor, pooled=not missing)
