"""Images of items from a folder or from addresses, with vision models of random weights."""

import json
import os
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from image_server import image_server, random_image
from PIL import Image
from vectors_by_item import vectors_by_item

from benchmarks.faults.servers import IMAGES
from etl.catalogue.content_hashes import ContentHashes
from etl.features import images, vision
from etl.features.encoding import encode_items
from etl.features.images import decode_image, folder_identity, image_files
from etl.features.placeholders import PLACEHOLDER_NAME
from etl.features.vision import DownloadSettings, ImageEncoder
from evaluation.report.pictures import thumbnail
from mdsrec.config import FeatureConfig
from mdsrec.errors import InputError
from mdsrec.files import file_system
from mdsrec.images import ImageError

SIZE = 32
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 8,
}
PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": SIZE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.4, 0.3],
    "image_processor_type": "CLIPImageProcessor",
}


@pytest.fixture(autouse=True)
def restore_process():
    """Undo what an encoder sets in its process: torch's threads and environment variables."""
    import torch

    threads, environment = torch.get_num_threads(), dict(os.environ)
    yield
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def server(monkeypatch):
    with image_server(monkeypatch) as running:
        yield running


def decompression_bomb():
    """Return a small PNG file with too many pixels."""
    stream = BytesIO()
    Image.new("1", (8200, 8200)).save(stream, "PNG")
    return stream.getvalue()


def save_model(folder, build):
    """Save a model of random weights, with the processor of CLIP, and return it."""
    import torch

    torch.manual_seed(0)
    model = build()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return model.eval()


def clip_tower():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(CLIPVisionConfig(**TOWER))


def clip_projected():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, projection_dim=6))


def clip():
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": 10,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=TOWER, projection_dim=6))


def vit(**options):
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**TOWER), **options)


def resnet():
    from transformers import ResNetConfig, ResNetModel

    return ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1]))


def preprocess(content):
    """Resize, crop and scale an image as PREPROCESSOR says -> [1, 3, SIZE, SIZE]."""
    image = Image.open(BytesIO(content)).convert("RGB")
    scale = SIZE / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - SIZE) // 2 for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32) / 255
    mean, std = (np.array(PREPROCESSOR[key], np.float32) for key in ("image_mean", "image_std"))
    return ((pixels - mean) / std).transpose(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("build", "feature"),
    [
        (clip_tower, lambda model, x: model(pixel_values=x).pooler_output),
        (clip, lambda model, x: model.get_image_features(pixel_values=x).pooler_output),
        (clip_projected, lambda model, x: model(pixel_values=x).image_embeds),
        (vit, lambda model, x: model(pixel_values=x).pooler_output),
        (
            lambda: vit(add_pooling_layer=False),
            lambda model, x: model(pixel_values=x).last_hidden_state[:, 0],
        ),
        (resnet, lambda model, x: model(pixel_values=x).last_hidden_state.mean(dim=(2, 3))),
    ],
    ids=["tower", "clip", "projection", "vit", "vit-without-pooler", "convolution"],
)
def test_the_vector_is_the_models_feature_of_the_preprocessed_image(tmp_path, build, feature):
    import torch

    model = save_model(tmp_path / "model", build)
    contents = [random_image(0), random_image(1, size=(90, 64))]
    uris = []
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.png").write_bytes(content)
        uris.append(str(tmp_path / f"{number}.png"))
    vectors, missed = ImageEncoder(str(tmp_path / "model"), None).encode(uris)
    assert missed == [None, None]
    with torch.inference_mode():
        expected = [feature(model, torch.from_numpy(preprocess(c)))[0] for c in contents]
    np.testing.assert_allclose(vectors, np.stack(expected), atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_a_folder_without_a_model_is_a_one_line_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' cannot be loaded") as error:
        ImageEncoder(str(tmp_path / "empty"), None).encode(["x"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_an_image_of_any_format_becomes_rgb(kind):
    image = decode_image(random_image(0, kind))
    assert (image.mode, image.size) == ("RGB", (40, 36))


def test_transparent_parts_are_white():
    stream = BytesIO()
    layer = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    layer.putpixel((1, 0), (10, 20, 30, 0))
    layer.save(stream, "PNG")
    image = decode_image(stream.getvalue())
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


def test_gray_of_16_bits_is_scaled_to_8():
    stream = BytesIO()
    Image.fromarray(np.array([[0, 256, 0x7FFF, 0xFFFF]], np.uint16)).save(stream, "PNG")
    image = decode_image(stream.getvalue())
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 127, 255)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_turned_upright_by_its_exif_orientation(kind):
    turned, stream = Image.new("RGB", (40, 20), "red"), BytesIO()
    turned.paste("blue", (0, 0, 20, 20))  # the left half of the stored image is the upper one
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(stream, kind, exif=exif)
    for image in (
        decode_image(stream.getvalue()),
        Image.open(BytesIO(thumbnail(stream.getvalue()))),
    ):
        assert image.size == (20, 40)
        assert image.getpixel((10, 5))[2] > 200
        assert image.getpixel((10, 35))[0] > 200


def test_gray_of_16_bits_keeps_its_orientation_and_its_transparency():
    stream, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    gray = Image.fromarray(np.array([[0x1000, 0x2000]], np.uint16))
    gray.save(stream, "PNG", exif=exif, transparency=0x2000)
    image = decode_image(stream.getvalue())
    assert image.size == (1, 2)
    assert [image.getpixel((0, y)) for y in (0, 1)] == [(0x10,) * 3, (255,) * 3]


def test_the_same_image_has_the_same_vector_in_any_batch(tmp_path):
    save_model(tmp_path / "model", clip_tower)
    sizes = []  # a GPU may compute batches of other sizes in another order
    model = vision._load_vision_model(str(tmp_path / "model"), "cpu").model
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    uris = [str(tmp_path / f"{number}.png") for number in range(18)]
    for number, uri in enumerate(uris):
        Path(uri).write_bytes(random_image(number % 17))
    vectors, _ = ImageEncoder(str(tmp_path / "model"), None).encode(uris)
    assert sizes == [16, 16]
    assert np.array_equal(vectors[0], vectors[17])
    assert not np.array_equal(vectors[0], vectors[1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"<html>", "not an image"),
        (random_image(0)[:-200], "broken image"),
        (random_image(0, "JPEG")[:300], "broken image"),
        (decompression_bomb(), "too many pixels"),
        (random_image(0, size=(101, 1)), "too narrow"),
        (random_image(0, "GIF", size=(1, 1)), "a single pixel"),
    ],
)
def test_an_unusable_image_is_refused_with_a_reason(content, reason):
    with pytest.raises(ImageError, match=f"^{reason}$"):
        decode_image(content)


def plain_image(kind, side, **options):
    stream = BytesIO()
    Image.new("RGB", (side, side), "teal").save(stream, kind, **options)
    return stream.getvalue()


def test_a_large_jpeg_is_decoded_at_a_scale_within_the_bound(monkeypatch):
    content = plain_image("JPEG", 400)
    monkeypatch.setattr("mdsrec.images.MAX_PIXELS", 120 * 120)
    image = decode_image(content)
    assert image.size == (100, 100)
    assert image.getpixel((50, 50)) == Image.open(BytesIO(content)).getpixel((200, 200))


@pytest.mark.parametrize(
    "content",
    [
        plain_image("PNG", 400),
        plain_image("WEBP", 400),
        plain_image("GIF", 400),
        plain_image("JPEG", 400, progressive=True),  # its decoder holds all of it
    ],
)
def test_an_image_that_cannot_be_reduced_while_it_is_read_is_held_to_the_bound(
    monkeypatch, content
):
    assert decode_image(content).size == (400, 400)
    monkeypatch.setattr("mdsrec.images.MAX_PIXELS", 400 * 400 - 1)
    with pytest.raises(ImageError, match=r"^too many pixels$"):
        decode_image(content)


def test_a_jpeg_beyond_the_bound_of_files_is_refused(monkeypatch):
    monkeypatch.setattr("mdsrec.images.MAX_PIXELS", 100 * 100)
    monkeypatch.setattr("mdsrec.images.MAX_JPEG_PIXELS", 400 * 400 - 1)
    with pytest.raises(ImageError, match=r"^too many pixels$"):
        decode_image(plain_image("JPEG", 400))


def test_a_small_file_of_many_pixels_is_a_miss():
    content = IMAGES["a PNG of 8192 x 8191 in 8 kB"]()
    assert len(content) < 10_000
    with pytest.raises(ImageError, match=r"^too many pixels$"):
        decode_image(content)


def test_images_of_a_folder_are_the_files_with_a_known_suffix_in_any_case(tmp_path):
    for name in ("B1.jpg", "B2.JPEG", "B3.Png", "B4.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "B5.png").mkdir()
    names = sorted(file.name for file in image_files(str(tmp_path)))
    assert names == ["B1.jpg", "B2.JPEG", "B3.Png", "B4.webp"]


def test_local_and_remote_listings_are_equal(tmp_path):
    for name in ("B1.jpg", "B2.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "B3.png").mkdir()
    local = sorted(images._local_files(str(tmp_path)))
    assert [(file.name, file.size) for file in local] == [("B1.jpg", 6), ("B2.png", 6)]
    assert sorted(images._remote_files(*file_system(str(tmp_path)))) == local


def test_the_identity_of_a_folder_changes_with_one_of_its_images(tmp_path):
    for name in ("B1.jpg", "B2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    hashes = ContentHashes(str(tmp_path))
    before = folder_identity(str(tmp_path), hashes)
    assert folder_identity(str(tmp_path), hashes) == before
    (tmp_path / "B2.jpg").write_bytes(b"xy")
    assert folder_identity(str(tmp_path), hashes) != before


def test_a_folder_that_is_missing_or_has_no_image_is_named(tmp_path):
    (tmp_path / "B1.txt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no file of this folder ends in \.jpg or"):
        list(image_files(str(tmp_path)))
    for path in (tmp_path / "nowhere", tmp_path / "B1.txt"):
        with pytest.raises(InputError, match="no such folder of images"):
            list(image_files(str(path)))


def test_the_tasks_of_an_executor_share_its_rate_limit():
    config = FeatureConfig(encoder="x", images="url", requests_per_second=20.0, retries=3)
    settings = DownloadSettings(timeout=10.0, retries=3, interval=0.2)
    assert DownloadSettings.of(config, num_tasks=4) == settings


@pytest.mark.parametrize(
    "name",
    [
        *("no-img-sm._V192198896_.gif", "no-image-avail.jpg", "no_image", "noimage2.gif"),
        *("NoImageAvailable.gif", "image-not-available.jpg", "imageunavailable.png"),
        *("no-photo.png?size=1/2", "no%20image.gif", "photo-coming-soon.jpg", "1x1-pixel.gif"),
    ],
)
def test_an_image_whose_name_says_that_there_is_none_is_recognized(name):
    assert re.search(PLACEHOLDER_NAME, f"http://server/images/G/01/{name}")


@pytest.mark.parametrize(
    "name", ["51aB-noI.jpg", "casino-image.jpg", "no-images-of-war.jpg", "no-image/B1.jpg"]
)
def test_other_names_are_no_placeholders(name):
    assert not re.search(PLACEHOLDER_NAME, f"http://server/images/G/01/{name}")


def expected_vectors(folder, contents):
    """Encode each image by itself, in this process."""
    found = {}
    for item, content in contents.items():
        path = folder / f"expected-{item}.png"
        path.write_bytes(content)
        found[item] = ImageEncoder(str(folder / "model"), None).encode([str(path)])[0][0]
    return found


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for item, vector in found.items():
        np.testing.assert_allclose(vector, expected[item], atol=1e-5)


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 3])
def test_images_of_a_folder_belong_to_the_items_they_are_named_after(spark, tmp_path, tasks):
    save_model(tmp_path / "model", clip_tower)
    folder = tmp_path / "images"
    folder.mkdir()
    contents = {0: random_image(0), 1: random_image(1), 2: random_image(0)}
    for item, content in contents.items():
        (folder / f"B{item}.PNG").write_bytes(content)
    (folder / "B3.jpg").write_bytes(b"no image")
    (folder / "B4.gif").write_bytes(random_image(4)[:-200])
    (folder / "UNKNOWN.png").write_bytes(random_image(5))
    items = spark.createDataFrame([(n, f"B{n}") for n in range(6)], "item int, item_id string")
    config = FeatureConfig(encoder=str(tmp_path / "model"), images=str(folder))
    cache = tmp_path / f"cache-{tasks}"
    located = encode_items(items.repartition(tasks), config, str(cache), tasks, "features/image")
    assert located.counters == {
        "encoded": 2,  # two items share an image
        "cached": 0,
        "damaged_cache_files": 0,
        "unknown_ids": 1,
        "missed: broken image": 1,
        "missed: not an image": 1,
    }
    found = vectors_by_item(located, tmp_path / f"table-{tasks}", tasks)
    assert_close(found, expected_vectors(tmp_path, contents))
    (folder / "B1.jpeg").write_bytes(random_image(1))
    with pytest.raises(InputError, match=r"item B1 has two images, .*B1\.PNG and .*B1\.jpeg"):
        encode_items(items, config, cache, 2, "features/image")


@pytest.mark.slow
@pytest.mark.spark
def test_images_are_downloaded_once_and_missing_ones_counted(spark, server, tmp_path):
    save_model(tmp_path / "model", clip_tower)
    paths = {
        0: "image/0",
        1: "flaky/500/1",
        2: "image/0",
        3: "status/404",
        4: "status/404",
        5: "slow",
        6: "page",
        8: "icons/no-img-sm._V192198896_.gif",
        9: "image/9",
        10: "image/9",
        11: "image/9?of=another-address",
    }
    rows = [(item, server.address(path)) for item, path in paths.items()] + [(7, None)]
    items = spark.createDataFrame(rows, "item int, image_url string")
    config = FeatureConfig(
        encoder=str(tmp_path / "model"),
        images="url",
        timeout=0.5,
        retries=1,
        requests_per_second=200.0,
        max_shared=2,
    )
    cache = str(tmp_path / "cache")
    located = encode_items(items, config, cache, 2, "features/image")
    misses = {
        "missed: 404": 2,
        "missed: a placeholder by its name": 1,
        "missed: not an image": 1,
        "missed: shared by more than 2 items": 3,
        "missed: timeout": 1,
    }
    assert located.counters == {"encoded": 4, "cached": 0, "damaged_cache_files": 0, **misses}
    contents = {0: random_image(0), 1: random_image(1), 2: random_image(0)}
    assert_close(vectors_by_item(located, tmp_path / "table"), expected_vectors(tmp_path, contents))
    again = encode_items(items, config, cache, 2, "features/image")
    assert again.counters == {"encoded": 0, "cached": 4, "damaged_cache_files": 0, **misses}
    assert server.requests["/image/0"] == 1
    assert server.requests["/status/404"] == 2  # once per run
