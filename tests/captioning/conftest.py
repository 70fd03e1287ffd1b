"""Images to ask about, and a log that remembers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from anyclass.captioning import CaptionContext, CaptionRequest
from anyclass.data import ImageDataset


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has a journal of its own."""
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def context(tmp_path: Path) -> CaptionContext:
    """14 images, each another colour and size; no model looks at them."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(14):
        colour = (17 * i, 250 - 11 * i, 90)
        Image.new("RGB", (30 + i, 20), colour).save(folder / f"{i:02}.png")
    dataset = ImageDataset.of(sorted(folder.iterdir()))
    return CaptionContext(dataset, None, torch.zeros(len(dataset), 3))


@pytest.fixture
def requests(context: CaptionContext) -> list[CaptionRequest]:
    """One question about each image but the last two, and one about these two."""
    single = [CaptionRequest((i,), "What is it?", "object") for i in range(12)]
    return [*single, CaptionRequest((12, 13), "What are they?", "object")]


class Told(list[dict[str, Any]]):
    """A log that remembers what it was told."""

    def __call__(self, **numbers: Any) -> None:
        self.append(numbers)

    @property
    def warnings(self) -> list[str]:
        """Everything said under `warning`."""
        return [numbers["warning"] for numbers in self if "warning" in numbers]


@pytest.fixture
def log() -> Told:
    """Remembers."""
    return Told()
