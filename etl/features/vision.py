"""Image encoders: any transformers vision model, over image files or addresses."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from etl.features.download import HostLimiters, fetch, is_http
from etl.features.encoders import device_of_task, load_error, model_location
from etl.features.images import decode_image, read_file
from etl.spark.vector_table import Vectors
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError
from mdsrec.images import ImageError

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.float32]  # [3, height, width]

THREADS = 4  # per task; they download, read and decode images in parallel


@dataclass(frozen=True)
class DownloadSettings:
    """Limits of one task's downloads."""

    timeout: float
    retries: int
    interval: float  # seconds between two requests of the task to the same host

    @classmethod
    def of(cls, config: FeatureConfig, num_tasks: int) -> "DownloadSettings":
        """Divide the rate of requests among `num_tasks` of an executor that run at a time."""
        return cls(config.timeout, config.retries, num_tasks / config.requests_per_second)


@dataclass(frozen=True)
class ImageEncoder:
    """A transformers vision model over addresses, or over URIs of files if `download` is None.

    With `reads_paths` both may occur.
    """

    name: str
    download: DownloadSettings | None
    reads_paths: bool = False

    def encode(self, contents: Sequence[str]) -> tuple[Vectors, list[str | None]]:
        device = device_of_task()
        model = _load_vision_model(self.name, device)
        pixels_or_reason = partial(_pixels_or_reason, model, self._reader())
        size = 16 if device == "cpu" else 128
        missed: list[str | None] = []
        vectors = []
        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, len(contents), size):
                batch = list(pool.map(pixels_or_reason, contents[first : first + size]))
                missed += [result if isinstance(result, str) else None for result in batch]
                if images := [result for result in batch if not isinstance(result, str)]:
                    vectors.append(model.vectors(images, size))
        return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), missed

    def _reader(self) -> Callable[[str], bytes]:
        if (settings := self.download) is None:
            return read_file
        limiters = HostLimiters(settings.interval)

        def read(content: str) -> bytes:
            if self.reads_paths and not is_http(content):
                return read_file(content)
            return fetch(content, settings.timeout, settings.retries, limiters)

        return read


@dataclass(frozen=True)
class _VisionModel:
    """A model on its device, with the processor of its images."""

    name: str
    model: Any
    processor: Any
    has_trained_pooler: bool

    def pixels(self, image: "Image.Image") -> Pixels:
        prepared = self.processor(images=[image], return_tensors="np")
        return np.asarray(prepared["pixel_values"][0], np.float32)

    def vectors(self, images: list[Pixels], batch_size: int) -> Vectors:
        """Return the features [n, d] of n <= batch_size images.

        The batch is filled up to its size, so that the same image has the same bits in any batch.

        They are the first of these that the model has: the features that a full CLIP or SigLIP
        compares with texts, the output of a projection, the output of a trained pooler, the class
        token, the mean over the feature map of a convolution.
        """
        import torch

        if len({image.shape for image in images}) > 1:
            raise InputError(
                f"encoder {self.name!r} prepares images of different sizes: set a crop or resize "
                "to one size in its preprocessor_config.json"
            )
        x = torch.zeros((batch_size, *images[0].shape))
        x[: len(images)] = torch.from_numpy(np.stack(images))
        with torch.inference_mode():
            features = self._features(x.to(self.model.device))[: len(images)]
        return np.asarray(features.flatten(1).float().cpu().numpy())

    def _features(self, x: Any) -> Any:
        if hasattr(self.model, "get_image_features"):
            return self.model.get_image_features(pixel_values=x).pooler_output
        output = self.model(pixel_values=x)
        if (projection := output.get("image_embeds")) is not None:
            return projection
        if self.has_trained_pooler and (pooled := output.get("pooler_output")) is not None:
            return pooled
        hidden = output.last_hidden_state
        return hidden[:, 0] if hidden.ndim == 3 else hidden.mean(dim=(2, 3))


def _pixels_or_reason(
    model: _VisionModel, read: Callable[[str], bytes], content: str
) -> Pixels | str:
    """Return the prepared image, or the reason why there is none."""
    try:
        return model.pixels(decode_image(read(content)))
    except ImageError as error:
        return str(error)


@cache
def _load_vision_model(encoder: str, device: str) -> _VisionModel:
    """Load the model once per worker process.

    Pillow prepares the images on every machine, so vectors do not depend on optional libraries.
    """
    try:
        import transformers

        location = model_location(encoder)
        auto: Any = transformers.AutoImageProcessor
        processor = auto.from_pretrained(location, backend="pil")
        kind = (transformers.AutoConfig.from_pretrained(location).architectures or [""])[0]
        projects = kind.endswith("VisionModelWithProjection")
        model, report = (
            getattr(transformers, kind) if projects else transformers.AutoModel
        ).from_pretrained(location, output_loading_info=True)
        missing = sorted(report["missing_keys"])
        if absent := [key for key in missing if "pooler" not in key]:
            raise ValueError(f"its files lack the weights {absent[0]}")
    except Exception as error:  # each model format raises its own kinds
        raise load_error(encoder, error) from None
    return _VisionModel(
        encoder, model.float().eval().to(device), processor, has_trained_pooler=not missing
    )
