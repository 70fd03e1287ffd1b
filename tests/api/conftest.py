"""A run of the Python interface, fitted once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from PIL import Image

import anyclass

CLASSES = ["red square", "blue disc", "yellow kite", "green ring"]


class Fit(NamedTuple):
    """A run on images in memory, and what it was fitted on; not to be changed."""

    run: anyclass.Run
    images: list[Any]
    labels: list[str | None]
    options: dict[str, Any]


@pytest.fixture(scope="session")
def options(tiny_clip: Callable[..., str]) -> dict[str, Any]:
    """Options of a fit that is quick."""
    model = {"model": tiny_clip(), "device": "cpu", "engine": "torch", "prompt_ensemble": False}
    return model | {"classes": CLASSES}


@pytest.fixture(scope="session")
def fit(options: dict[str, Any], fitted: Any) -> Fit:
    """13 images in memory and one that cannot be read; every second one is labelled."""
    files = sorted(fitted.images.glob("*/*"))
    good = {file for file in files if file.read_bytes() != b"no image"}
    images: list[Any] = [Image.open(file) if file in good else None for file in files]
    names: list[str | None] = [file.parent.name for file in files]
    labels = [name if i % 2 == 0 else None for i, name in enumerate(names)]
    run = anyclass.fit(images, labels=labels, max_rejected=0.2, **options)
    return Fit(run, images, labels, options)
