"""What the tests of methods share: a tiny model, pictures it tells apart, a describer, a fit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from anyclass.backbone import Backbone
from anyclass.classifier import Classifier
from anyclass.data import Photos
from anyclass.describe import Request, Scene, Vocabulary
from anyclass.methods.latteclip import LatteClip
from anyclass.train import Log
from anyclass.tuning import Tuning

NAMES = ("two", "orange", "art", "image")
WORDS = ("red toy", "big kite", "old hand", "dark water", "fruit", "soft paper", "shiny ring")

Fitted = tuple[Classifier, list[dict[str, Any]]]
"""A classifier, and all that was logged on the way to it."""


class Teller(Vocabulary):
    """Answers by number, twice with nothing; remembers what it was asked."""

    asked: ClassVar[list[Request]] = []

    def describe(self, requests: Sequence[Request], scene: Scene, log: Log) -> list[str | None]:
        self.asked.extend(requests)
        return [self.say(request.rows, request.variant) for request in requests]

    def say(self, rows: tuple[int, ...], variant: int = 0) -> str | None:
        """Nothing for pictures 3 and 7 and for groups with picture 5."""
        if rows in ((3,), (7,)) or (len(rows) > 1 and 5 in rows):
            return "" if rows == (7,) else None
        kind = "a painting of" if len(rows) > 1 else "a sketch of"
        return f"{kind} {WORDS[(sum(rows) + 3 * variant) % len(WORDS)]}"


@pytest.fixture
def teller() -> Teller:
    Teller.asked.clear()
    return Teller()


@pytest.fixture(scope="session")
def clip(tiny_clip: Callable[..., str]) -> Backbone:
    return Backbone.load(tiny_clip("causal"), engine="torch")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    """13 coarse mosaics, none square, which the tiny model spreads over the four classes."""
    root, noise = tmp_path_factory.mktemp("mosaics"), np.random.default_rng(0)
    for i in range(13):
        tiles = noise.integers(0, 256, (3 + i % 3, 4, 3)).astype(np.uint8)
        mosaic = Image.fromarray(tiles).resize((50 + 3 * i, 44), Image.Resampling.NEAREST)
        mosaic.save(root / f"{i:02}.png")
    return Photos.read(root, NAMES)


@pytest.fixture(scope="session")
def small() -> Callable[..., LatteClip]:
    """`small(**changed)`: five steps of B = 6 on the head, over two epochs and a half, a long way.

    Fields of `Tuning` are given like those of the method.
    """

    def method(**changed: Any) -> LatteClip:
        how = {"tune": "head", "lr": 5e-3, "steps": 5, "batch_size": 6, "views": 2}
        own = {"describer": Teller(), "group_size": 2, "groups": 1, "alpha": 0.7}
        how |= {name: changed.pop(name) for name in vars(Tuning()) if name in changed}
        return LatteClip(tuning=Tuning(**how), **(own | changed))

    return method


@pytest.fixture(scope="session")
def fit(clip: Backbone, photos: Photos) -> Callable[..., Fitted]:
    """`fit(how)` -> classifier and log; other pictures, seed or scratch folder on demand."""

    def fitted(
        how: Any, pictures: Photos = photos, seed: int = 0, scratch: Path | None = None
    ) -> Fitted:
        log: list[dict[str, Any]] = []
        torch.manual_seed(seed)
        return how.fit(clip, pictures, lambda **row: log.append(row), scratch), log

    return fitted
