"""What is measured of pixels: brightness, detail, blur and hash, against values by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.fft import dctn

from anyclass.data import ImageDataset
from anyclass.data.inspection import blur, entropy, inspect, perceptual_hash
from anyclass.log import silent


def photograph(seed: int = 0, size: tuple[int, int] = (150, 110)) -> Image.Image:
    """Coloured squares of several sizes, smooth and sharp: no two seeds alike."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    for side in (2, 5, 11, 23):
        grid = draw.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
        layer = Image.fromarray(grid).resize(size, Image.Resampling.NEAREST)
        image = Image.blend(image, layer, 0.5)
    return image


def test_inspect__measures_size_brightness_and_detail(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (40, 1))  # 100 grey values, once each
    Image.fromarray(ramp).save(tmp_path / "0.png")
    Image.new("RGB", (30, 70), (51, 51, 51)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    photograph(size=(600, 300)).save(tmp_path / "3.png")
    found = inspect(ImageDataset.read(tmp_path), silent)
    assert found.width.tolist() == [100, 30, 0, 600]
    assert found.height.tolist() == [40, 70, 0, 300]
    assert found.ok.tolist() == [True, True, False, True]
    assert [row.file_name for row in found.rejections] == ["2.png"]
    assert found.dark[:2] == pytest.approx([198 * 0.99 / 255, 0.2], abs=0.005)
    assert found.bright[:2] == pytest.approx([198 * 0.05 / 255, 0.2], abs=0.005)
    assert found.detail[:2] == pytest.approx([np.log2(100), 0])
    assert found.blur[1] == 0, "nothing varies"
    assert np.isnan(found.dark[2])
    assert found.thumbs.shape == (4, 32, 32)


def test_inspect__in_processes_as_in_this_one(tmp_path: Path) -> None:
    for i in range(3):
        photograph(i).save(tmp_path / f"{i}.png")
    dataset = ImageDataset.read(tmp_path)
    steps: list[int] = []
    here = inspect(dataset, lambda **row: steps.append(row["done"]), workers=0)
    there = inspect(dataset, silent, workers=1)
    assert steps == [3]
    assert (here.hashes == there.hashes).all()
    assert here.blur.tolist() == there.blur.tolist()


def test_entropy__by_hand() -> None:
    assert entropy([1, 1, 2]) == pytest.approx(1.5)
    assert entropy([0, 7]) == 0


def test_blur__grows_with_the_blur_and_ignores_contrast() -> None:
    image = photograph().convert("L")
    values = [
        blur(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32))
        for radius in (0, 1, 2, 4)
    ]
    assert values == sorted(values)
    assert values[0] < 0.5
    assert values[-1] > 0.77
    grey = np.asarray(image, np.float32)
    assert blur(0.25 * grey + 30) == pytest.approx(blur(grey), abs=1e-4)


def test_perceptual_hash__is_signs_of_low_frequencies() -> None:
    thumb = np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32)
    found = perceptual_hash(thumb)
    frequencies = [dctn(thumb, norm="ortho")[i, j] for i in range(1, 9) for j in range(1, 9)]
    middle = sorted(frequencies)
    expected = [value > (middle[31] + middle[32]) / 2 for value in frequencies]
    assert found.tolist() == expected
    assert (perceptual_hash(0.3 * thumb + 40) == found).all(), "brightness and contrast"
