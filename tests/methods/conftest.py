"""What the tests of methods share: a tiny model, images it tells apart, a captioner, a fit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.captioning import CaptionContext, CaptionRequest, Vocabulary
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, ImageDataset
from anyclass.data.splits import discovery_split
from anyclass.estimators.metrics import clustering
from anyclass.features.cache import Embedding, Features
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.latteclip import LatteClip
from anyclass.training.tuning import Tuning

NAMES = ("two", "orange", "art", "image")
WORDS = ("red toy", "big kite", "old hand", "dark water", "fruit", "soft paper", "shiny ring")

Fitted = tuple[Classifier, list[dict[str, Any]]]
"""A classifier, and all that was logged on the way to it."""


class Teller(Vocabulary):
    """Answers by number, twice with nothing; remembers what it was asked."""

    asked: ClassVar[list[CaptionRequest]] = []

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        self.asked.extend(requests)
        return [self.say(request.rows, request.variant) for request in requests]

    def say(self, rows: tuple[int, ...], variant: int = 0) -> str | None:
        """Nothing for images 3 and 7 and for groups with image 5."""
        if rows in ((3,), (7,)) or (len(rows) > 1 and 5 in rows):
            return "" if rows == (7,) else None
        kind = "a painting of" if len(rows) > 1 else "a sketch of"
        return f"{kind} {WORDS[(sum(rows) + 3 * variant) % len(WORDS)]}"


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Random unit rows."""
    return normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def labelled() -> LabelledFeatures:
    """Features of few-shot methods: n = 7 images of classes 1 and 3, K = 3 views, D = 24."""
    c = torch.tensor([1, 3, 3, 1, 3, 3, 1])
    return LabelledFeatures(unit(7, 3, 24), c, tuple("abcdefg"))


@pytest.fixture
def teller() -> Teller:
    Teller.asked.clear()
    return Teller()


@pytest.fixture(scope="session")
def clip(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """13 coarse mosaics, none square, which the tiny model spreads over the four classes."""
    root, noise = tmp_path_factory.mktemp("mosaics"), np.random.default_rng(0)
    for i in range(13):
        tiles = noise.integers(0, 256, (3 + i % 3, 4, 3)).astype(np.uint8)
        mosaic = Image.fromarray(tiles).resize((50 + 3 * i, 44), Image.Resampling.NEAREST)
        mosaic.save(root / f"{i:02}.png")
    return ImageDataset.read(root, NAMES)


@pytest.fixture(scope="session")
def small() -> Callable[..., LatteClip]:
    """`small(**changed)`: five steps of B = 6 on the head, over two epochs and a half, a long way.

    Fields of `Tuning` are given like those of the method.
    """

    def method(**changed: Any) -> LatteClip:
        how = {"tune": "head", "lr": 5e-3, "steps": 5, "batch_size": 6, "views": 2}
        own = {"captioner": Teller(), "group_size": 2, "groups": 1, "alpha": 0.7, "mu": 0.8}
        how |= {name: changed.pop(name) for name in vars(Tuning()) if name in changed}
        return LatteClip(tuning=Tuning(**how), **(own | changed))

    return method


class Blobs(NamedTuple):
    """Easy clusters as features of images that do not exist."""

    dataset: ImageDataset
    """300 images of 5 classes; half of those of the first three keep their label."""
    truth: np.ndarray
    """Class of each image."""

    def scores(self, classifier: Classifier, who: str = "predicted") -> dict[str, Any]:
        """Of the unlabelled images."""
        hidden, guess = self.dataset.labels < 0, np.array(classifier.record.predictions[who])
        found = clustering(self.truth[hidden], guess[hidden], known=[0, 1, 2])
        assert found is not None
        return found


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Blobs]:
    """`blobs(seed)`: whatever a method embeds, it gets these features (32 dimensions)."""

    def made(seed: int) -> Blobs:
        draw = torch.Generator().manual_seed(seed)
        true = torch.arange(5).repeat_interleave(60)
        x = torch.randn(5, 32, generator=draw)[true] + 0.35 * torch.randn(300, 32, generator=draw)
        views = x[:, None] + 0.1 * torch.randn(300, 8, 32, generator=draw)
        place = np.stack([np.zeros(300, dtype=int), np.arange(300)], axis=1)

        def given(store: FeatureStore, how: Embedding, log: Log) -> Features:
            return Features([views if how.augmentation else x[:, None]], place, [])

        monkeypatch.setattr(FeatureStore, "embed", given)
        files = tuple(f"{i:03}.png" for i in range(300))
        whole = ImageDataset(Path("/"), files, true.numpy(), Classes.of("abcde", labelled="abcde"))
        return Blobs(*discovery_split(whole, [0, 1, 2]))

    return made


@pytest.fixture(scope="session")
def half_known(dataset: ImageDataset) -> ImageDataset:
    """The mosaics: classes 0 and 2 have labels, 1 has a name alone, a fourth has not even that."""
    labels = np.array([0, -1, 2, -1, 0, -1, -1, 2, -1, -1, 0, -1, -1])
    classes = Classes.of(("two", "orange", "art"), labelled=("two", "art"), unknown=1)
    return replace(dataset, labels=labels, classes=classes)


@pytest.fixture
def killed(dies: Callable[..., None], clip: Backbone) -> Callable[..., None]:
    """`killed(how, dataset, folder, stage, step)`: the fit dies once that step is kept."""

    def run(how: Any, dataset: ImageDataset, scratch: Path, stage: str, step: int) -> None:
        dies(
            lambda log: how.fit(FeatureStore(clip, dataset), log, scratch),
            lambda row: row.get("stage") == stage and row.get("done", 0) > step,
        )

    return run


@pytest.fixture(scope="session")
def fit(clip: Backbone, dataset: ImageDataset) -> Callable[..., Fitted]:
    """`fit(how)` -> classifier and log; other images, seed or scratch folder on demand."""

    def fitted(
        how: Any, images: ImageDataset = dataset, seed: int = 0, scratch: Path | None = None
    ) -> Fitted:
        log: list[dict[str, Any]] = []

        def note(**row: Any) -> None:
            if row.get("stage") != "embed":  # who embeds first, of all tests, has it to say
                log.append(row)

        return how.fit(FeatureStore(clip, images), note, scratch, seed), log

    return fitted


@pytest.fixture(scope="session")
def once(fit: Callable[..., Fitted], dataset: ImageDataset) -> Callable[..., Fitted]:
    """`once(how)`: what `fit(how)` gives, fitted once for all tests; not to be changed."""
    done: dict[tuple[str, int], tuple[ImageDataset, Fitted]] = {}

    def fitted(how: Any, images: ImageDataset = dataset) -> Fitted:
        key = repr(how), id(images)
        if key not in done:
            done[key] = images, fit(how, images)  # kept, so that no other gets its id
        return done[key][1]

    return fitted
