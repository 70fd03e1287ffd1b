"""Copies of a photograph: resized, compressed, cropped, darker; and other photographs."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from anyclass.data import ImageDataset
from anyclass.data.copies import places
from anyclass.data.inspection import inspect
from anyclass.data.near_copies import COARSE, COPY, all_windows, coarse, similarity
from anyclass.log import silent


def photograph(seed: int = 0, size: tuple[int, int] = (190, 140)) -> Image.Image:
    """Smooth colours with some edges, as in a photograph: no two seeds alike."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    for side, how in ((3, Image.Resampling.BICUBIC), (7, Image.Resampling.NEAREST), (19, 3)):
        grid = draw.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
        image = Image.blend(image, Image.fromarray(grid).resize(size, how), 0.55)
    return image


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file)


COPIES = {
    "half": lambda image: image.resize((95, 70)),
    "compressed": compressed,
    "cropped": lambda image: image.crop((3, 0, 184, 133)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
}


def scores(folder: Path, *images: Image.Image) -> list[float]:
    """Similarity of the first image with each of the others."""
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    dataset = ImageDataset.read(folder)
    pairs = np.array([(0, i) for i in range(1, len(images))])
    found = inspect(dataset, silent, workers=0)
    return similarity(places(dataset), found.thumbs, pairs, silent, workers=0).tolist()


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("swapped", [False, True])
def test_similarity__finds_copies(tmp_path: Path, kind: str, swapped: bool) -> None:
    image = photograph()
    pair = (image, COPIES[kind](image))
    assert scores(tmp_path, *(reversed(pair) if swapped else pair))[0] > COPY + 0.1


def test_similarity__of_other_images_with_the_same_colours(tmp_path: Path) -> None:
    """Other prints on the same shirt: the thumbnails agree, the details do not."""
    shirt = ImageOps.autocontrast(photograph(0).resize((5, 4)).resize((190, 140), 3))
    draw = np.random.default_rng(4)
    weaves = [draw.integers(0, 256, (40, 52, 3), dtype=np.uint8) for _ in range(2)]
    prints = [Image.blend(shirt, Image.fromarray(w).resize((190, 140)), 0.15) for w in weaves]
    thumbs = [np.asarray(image.convert("L").resize((32, 32))) for image in prints]
    best, _ = coarse(np.stack(thumbs), np.array([(0, 1)]))
    assert best[0] > COARSE
    assert 0 < scores(tmp_path, *prints, photograph(3))[0] < COPY - 0.1


def test_coarse__finds_the_window_that_was_cut_out() -> None:
    whole = np.asarray(photograph(size=(320, 320)).convert("L"))
    window = next(w for w in all_windows() if w.side == 0.9 and w.top > 0.09 and w.left == 0)
    top, side = round(320 * window.top), 288
    part = Image.fromarray(whole[top : top + side, :side])
    thumbs = np.stack(
        [
            np.asarray(Image.fromarray(whole).resize((32, 32), 3)),
            np.asarray(part.resize((32, 32), 3)),
        ]
    )
    best, windows = coarse(thumbs, np.array([(0, 1), (1, 0), (0, 0)]))
    assert all_windows()[windows[0]] == window
    assert all_windows()[~windows[1]] == window, "the second is the whole"
    assert best[:2] == pytest.approx([best[0]] * 2)
    assert best[0] > COARSE
    assert best[2] == pytest.approx(1)
    assert len(all_windows()) == 37


def test_similarity__of_an_empty_or_unreadable_image_is_zero(tmp_path: Path) -> None:
    blank = Image.new("RGB", (40, 30), "white")
    assert scores(tmp_path, blank, blank, photograph()) == [0, 0]
    (tmp_path / "0.png").write_bytes(b"no image")
    dataset = ImageDataset.read(tmp_path)
    same = np.repeat(np.arange(1024, dtype=np.uint8).reshape(1, 32, 32), 3, 0)
    pairs = np.array([(0, 2)])
    assert similarity(places(dataset), same, pairs, silent, workers=0).tolist() == [0]
