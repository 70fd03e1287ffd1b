"""The image that is shown: LatteCLIP's collage to the pixel, a single image not too large."""

import io
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyclass.captioning import CaptionRequest, collage, image, jpeg, settings
from anyclass.data import ImageDataset
from anyclass.errors import ImageError

SPREAD = 4
"""What JPEG may add to a colour that fills an image."""


def plain(size: tuple[int, int], shade: int) -> Image.Image:
    return Image.new("RGB", size, (shade, 255 - shade, 40))


@pytest.mark.parametrize(("n", "cell"), [(2, 326), (4, 326), (8, 210), (9, 210), (16, 153)])
def test_collage__cells_gaps_and_order(n: int, cell: int) -> None:
    """Square images fill their cells: everything else is black."""
    shades = [10 + 14 * k for k in range(n)]
    found = np.asarray(collage([plain((90, 90), shade) for shade in shades]))
    across = max(2, ceil(sqrt(n)))
    assert cell == (672 - 20 * (across - 1)) // across
    wanted = np.zeros((672, 672, 3), np.uint8)
    for k, shade in enumerate(shades):
        top, left = k // across * (cell + 20), k % across * (cell + 20)
        wanted[top : top + cell, left : left + cell] = (shade, 255 - shade, 40)
    assert found.shape == (672, 672, 3)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((50, 100), (163, 326)), ((2000, 500), (326, 82)), ((30, 30), (326, 326)), ((5000, 3), None)],
)
def test_collage__keeps_the_aspect_up_and_down_in_the_middle(
    size: tuple[int, int], shown: tuple[int, int] | None
) -> None:
    tile = np.asarray(collage([plain(size, 200)]))[:326, :326].any(2)
    if shown is None:
        assert not tile.any()
        return
    rows, columns = tile.any(1).nonzero()[0], tile.any(0).nonzero()[0]
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    assert (width, height) == shown
    assert abs(columns[0] - (325 - columns[-1])) <= 1
    assert abs(rows[0] - (325 - rows[-1])) <= 1


def test_collage__resizes_by_lanczos() -> None:
    image = Image.effect_noise((80, 80), 60).convert("RGB")
    tile = image.resize((326, 326), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(collage([image]))[:326, :326], np.asarray(tile))


@pytest.fixture
def dataset(tmp_path: Path) -> ImageDataset:
    """A wide one, a small tall one, and one that is none."""
    plain((1000, 400), 180).save(tmp_path / "0.png")
    plain((20, 30), 60).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    return ImageDataset.of(sorted(tmp_path.glob("*.png")))


def ask(*rows: int) -> CaptionRequest:
    return CaptionRequest(rows, "What is it?", "object")


def test_image__one_is_made_smaller_never_larger(dataset: ImageDataset) -> None:
    assert image(ask(0), dataset, 500).size == (500, 200)
    assert image(ask(1), dataset, 500).size == (20, 30)
    assert image(ask(1), dataset, 15).size == (10, 15)


def test_image__several_are_a_collage(dataset: ImageDataset) -> None:
    images = [Image.open(dataset.path(row)) for row in (1, 0)]
    assert np.array_equal(image(ask(1, 0), dataset, 50), collage(images))


def test_image__an_unreadable_one_is_ours_to_report(dataset: ImageDataset) -> None:
    with pytest.raises(ImageError, match="not an image"):
        image(ask(0, 2), dataset, 50)


def with_everything(path: Path) -> None:
    """A JPEG that carries a place, a name, a comment, XMP and a colour profile."""
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    more = {"comment": b"SECRET comment", "xmp": b"<x>SECRET xmp</x>", "icc_profile": b"SECRET icc"}
    plain((64, 48), 120).save(path, "JPEG", exif=exif, **more)


def test_jpeg__holds_pixels_alone(tmp_path: Path) -> None:
    with_everything(tmp_path / "0.jpg")
    assert (tmp_path / "0.jpg").read_bytes().count(b"SECRET") == 4
    for shown in (
        Image.open(tmp_path / "0.jpg"),
        image(ask(0), ImageDataset.of([tmp_path / "0.jpg"]), 90),
    ):
        sent = jpeg(shown)
        for mark in (
            b"SECRET",
            b"Exif",
            b"xmp",
            b"ICC_PROFILE",
            b"\xff\xfe",
            b"\xff\xe1",
            b"\xff\xe2",
        ):
            assert mark not in sent
        again = Image.open(io.BytesIO(sent))
        assert set(again.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert np.ptp(np.asarray(again, np.int16) - (120, 135, 40)) <= SPREAD


def test_jpeg__leaves_the_image_as_it_is() -> None:
    image = plain((8, 6), 70)
    image.info["comment"] = b"mine"
    jpeg(image)
    assert image.info == {"comment": b"mine"}


def test_settings__names_what_a_describer_sees() -> None:
    assert settings(500) == {"size": 500, "side": 672, "gap": 20, "jpeg": 90}
