"""The preprocessing graph gives Pillow's pixels, bit for bit."""

from itertools import product
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from anyclass.data import Preprocessing
from anyclass.exporting import preprocessing as module
from anyclass.exporting.preprocessing import preprocessing_graph

MEAN = (0.48145466, 0.4, 0.3)
STD = (0.2, 0.26130258, 0.3)
SIZES = ((48, 48), (30, 52), (52, 30))
SHAPES = ((7, 90), (301, 97), (90, 7), (48, 48), (52, 31), (160, 143), (97, 240))
"""Height and width: enlarged and reduced, tall and wide, as they are."""

CASES = list(product(SIZES, ("shortest", "longest", "squash"), ("bicubic", "bilinear")))


def session(preprocessing: Preprocessing) -> Any:
    model = preprocessing_graph(preprocessing, opset=20, ir_version=10)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def drawn(height: int, width: int, seed: int) -> np.ndarray:
    """Noise of black and white, or of all values: the steepest edges that there are."""
    values = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (height, width, 3))
    return (values if seed % 2 else 255 * (values > 127)).astype(np.uint8)


@pytest.mark.parametrize(("size", "mode", "interpolation"), CASES)
def test_preprocessing_graph__pixels_of_pillow(
    size: tuple[int, int], mode: Any, interpolation: Any
) -> None:
    preprocessing = Preprocessing(size, MEAN, STD, interpolation, mode, fill=77)
    run = session(preprocessing).run
    for seed, shape in enumerate(SHAPES):
        image = drawn(*shape, seed)
        wanted = preprocessing.normalise(preprocessing.view(Image.fromarray(image)))
        assert np.array_equal(run(None, {"images": image[None]})[0][0], wanted), shape


def test_preprocessing_graph__several_images_at_once() -> None:
    preprocessing = Preprocessing((30, 30), MEAN, STD)
    images = np.stack([drawn(61, 45, seed) for seed in range(4)])
    run = session(preprocessing).run
    together = run(None, {"images": images})[0]
    assert together.shape == (4, 3, 30, 30)
    for image, pixels in zip(images, together, strict=True):
        assert np.array_equal(run(None, {"images": image[None]})[0][0], pixels)


def test_preprocessing_graph__order_of_the_axes_is_that_of_this_pillow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pillow 13 begins with the vertical axis of a tall image; before 13 it never did."""
    image = drawn(301, 97, 2)
    preprocessing = Preprocessing((48, 48), MEAN, STD)
    results = []
    for version in ("12.3.0", "13.0.0"):
        monkeypatch.setattr(module.PIL, "__version__", version)
        results.append(session(preprocessing).run(None, {"images": image[None]})[0])
    assert not np.array_equal(*results)
