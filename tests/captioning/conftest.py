"""Pictures to ask about, and a log that remembers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from anyclass.captioning import Request, Scene
from anyclass.data import Photos


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has a journal of its own."""
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """14 pictures, each another colour and size; no model looks at them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(14):
        colour = (17 * i, 250 - 11 * i, 90)
        Image.new("RGB", (30 + i, 20), colour).save(folder / f"{i:02}.png")
    photos = Photos.of(sorted(folder.iterdir()))
    return Scene(photos, None, torch.zeros(len(photos), 3))


@pytest.fixture
def requests(scene: Scene) -> list[Request]:
    """One question about each picture but the last two, and one about these two."""
    single = [Request((i,), "What is it?", "object") for i in range(12)]
    return [*single, Request((12, 13), "What are they?", "object")]


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
