"""Images in memory: the same pixels and the same content as files, and nothing but our errors."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anyclass.data import Limits, Preprocessing, TestTransform, load_batches, open_image
from anyclass.data.content_hash import content_hashes
from anyclass.data.inputs import image_source
from anyclass.data.label_inputs import read_images
from anyclass.data.memory import is_image, item_hash, read_item
from anyclass.errors import ImageError

PIXELS = np.random.default_rng(3).integers(0, 256, (31, 44, 3), np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.fromarray(PIXELS).save(path)
    return path


def kinds() -> dict[str, Any]:
    """The same pixels in every way that Python holds them."""
    chw = np.moveaxis(PIXELS, -1, 0)
    return {
        "Pillow": Image.fromarray(PIXELS),
        "Pillow with alpha": Image.fromarray(PIXELS).convert("RGBA"),
        "uint8": PIXELS,
        "float": PIXELS / np.float32(255),
        "float64": PIXELS / 255,
        "with alpha": np.dstack([PIXELS, np.full((31, 44), 255, np.uint8)]),
        "tensor": torch.from_numpy(chw.copy()),
        "float tensor": torch.from_numpy(chw / np.float32(255)),
        "turned view": PIXELS[::-1][::-1],
    }


@pytest.mark.parametrize("kind", kinds())
def test_read_item__pixels_are_those_of_the_file(kind: str, file: Path) -> None:
    content, image = read_item(kinds()[kind], None, Limits())
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(open_image(file)))
    assert content == read_item(PIXELS, None, Limits())[0]
    assert content == item_hash(kinds()[kind], Limits())


@pytest.mark.parametrize("size", [(31, 44), (31, 44, 1)])
def test_read_item__grey_and_black_and_white(size: tuple[int, ...]) -> None:
    grey = PIXELS[:, :, 0].reshape(size)
    rgb = np.asarray(read_item(grey, None, Limits())[1])
    assert np.array_equal(rgb, np.repeat(PIXELS[:, :, :1], 3, axis=2))
    bits = np.asarray(read_item(grey > 99, None, Limits())[1])
    assert np.array_equal(bits[:, :, 1] == 255, PIXELS[:, :, 0] > 99)


def test_read_item__bytes_have_the_content_hash_of_their_file(file: Path) -> None:
    data = file.read_bytes()
    wanted = sha256(data).hexdigest()
    row = {"bytes": data, "path": "elsewhere.png"}
    for item in (file, str(file), data, bytearray(data), row, {"bytes": None, "path": str(file)}):
        content, image = read_item(item, None, Limits())
        assert content == wanted
        assert image.size == (44, 31)


def test_read_item__a_photo_is_turned_upright_and_stays_as_it_is() -> None:
    buffer = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    photo = Image.open(buffer)
    assert read_item(photo, None, Limits())[1].size == (31, 44)
    assert photo.size == (44, 31)
    assert photo.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    ("item", "reason", "detail"),
    [
        (None, "not an image", "a value of type NoneType"),
        (7, "not an image", "a value of type int"),
        ({"a": 1}, "not an image", "type dict"),
        (np.zeros((3, 31, 44), np.uint8), "not an image", "an array of 3 x 31 x 44"),
        (np.zeros((0, 44, 3), np.uint8), "not an image", "without pixels"),
        (PIXELS.astype(np.int64), "unsupported mode", "numbers of type int64; give uint8"),
        (PIXELS * 1.0, "unsupported mode", "floats from 0 to 255; give 0 to 1, or uint8"),
        (torch.full((3, 4, 5), torch.nan), "unsupported mode", "floats from nan"),
        (b"no image", "not an image", "none of"),
        ("missing.png", "missing", ""),
        (np.zeros((9, 9, 3), np.uint8), "too many pixels", "9 x 9"),
        (Image.new("F", (4, 4)), "unsupported mode", "mode F"),
        (b"x" * 999, "too many bytes", "more than 900"),
    ],
)
def test_read_item__refuses(item: Any, reason: str, detail: str) -> None:
    limits = Limits(bytes=900, pixels=80) if reason.startswith("too many") else Limits()
    for read in (lambda: read_item(item, None, limits), lambda: item_hash(item, limits)):
        if reason == "not an image" and detail == "none of" and read is not None:
            continue  # the hash of bytes needs no decoding
        with pytest.raises(ImageError) as bad:
            read()
        assert bad.value.reason == reason
        assert detail in bad.value.detail


def test_read_item__a_torn_file_behind_a_lazy_image() -> None:
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG")
    torn = Image.open(BytesIO(buffer.getvalue()[:700]))
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_item(torn, None, Limits())


def test_is_image__one_and_not_several() -> None:
    assert is_image(PIXELS)
    assert is_image(torch.zeros(3, 31, 44))
    assert not is_image(PIXELS[None])
    assert not is_image(torch.zeros(5, 31, 44))
    assert not is_image(np.zeros((31, 44)))
    assert not is_image([PIXELS])


def test_load_batches__memory_in_order_and_the_bad_ones_apart() -> None:
    images = [PIXELS[:, :w] for w in range(20, 31)]
    images[4] = None  # type: ignore[call-overload]
    dataset = read_images(images)
    assert dataset.files == tuple(map(str, range(11)))
    shape = Preprocessing((18, 30), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    rows = []
    for batch, bad in load_batches(dataset, TestTransform(shape), 3):
        for index, pixels, content in zip(batch.indices, batch.pixels, batch.hashes, strict=True):
            wanted = shape.view(Image.fromarray(images[index]))
            assert torch.equal(pixels[0], wanted)
            assert content == content_hashes(dataset)[index]
            rows.append(index)
        for row in bad:
            assert (row.file_name, row.reason) == ("4", "not an image")
    assert rows == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert content_hashes(dataset)[4] is None
    assert len({*content_hashes(dataset)}) == 11


def test_image_source__keeps_a_dataset() -> None:
    dataset = read_images([PIXELS])
    assert image_source(dataset).dataset is dataset  # type: ignore[union-attr]
