"""WiSE-FT between a model and each kind of classifier made of it; N = 13, C = 4, D = 24."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.wise_ft import mix_prototypes, wise_ft
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.store import FeatureStore
from anyclass.methods.flyp import Flyp
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.reclip import Reclip
from anyclass.methods.zero_shot import ZeroShot
from anyclass.training.tuning import Tuning

NAMES = ("two", "orange", "art", "image")
TEMPLATE = "a drawing of the {}."
QUICK = Tuning("head", lr=3e-2, steps=4, batch_size=6, views=1)
METHODS: dict[str, Any] = {
    "flyp all": Flyp(tuning=replace(QUICK, tune="all", lr=2e-3), template=TEMPLATE),
    "latteclip": LatteClip(tuning=QUICK, template=TEMPLATE, texts=("class",), alpha=0.7, mu=0.7),
    "reclip": Reclip(tune="tail", template=TEMPLATE, neighbours=3, batch_size=6, lr=3e-3),
}


@pytest.fixture(scope="module")
def clip(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Coarse mosaics, none square."""
    root, noise = tmp_path_factory.mktemp("mosaics"), np.random.default_rng(0)
    for i in range(13):
        tiles = noise.integers(0, 256, (3 + i % 3, 4, 3)).astype(np.uint8)
        mosaic = Image.fromarray(tiles).resize((50 + 3 * i, 44), Image.Resampling.NEAREST)
        mosaic.save(root / f"{i:02}.png")
    return ImageDataset.read(root, NAMES)


@pytest.fixture(scope="module", params=METHODS)
def fitted(request: pytest.FixtureRequest, clip: Backbone, dataset: ImageDataset) -> Classifier:
    torch.manual_seed(0)
    made: Classifier = METHODS[request.param].fit(FeatureStore(clip, dataset), lambda **_: None)
    return made


@torch.no_grad()
def texts(clip: Backbone) -> torch.Tensor:
    return clip.texts([TEMPLATE.replace("{}", name) for name in NAMES])


def test_wise_ft__ends_are_exact(clip: Backbone, dataset: ImageDataset, fitted: Classifier) -> None:
    start, end = wise_ft(clip, fitted, 0.0), wise_ft(clip, fitted, 1.0)
    for parameters, wanted in ((start.clip, clip), (end.clip, fitted.clip)):
        for name, theta in parameters.model.named_parameters():
            assert torch.equal(theta, dict(wanted.model.named_parameters())[name]), name
    assert torch.equal(end.head.weights, fitted.head.weights)
    assert end.predict_proba(dataset).tobytes() == fitted.predict_proba(dataset).tobytes()
    torch.manual_seed(0)
    zero_shot = ZeroShot(template=TEMPLATE).fit(FeatureStore(clip, dataset), lambda **_: None)
    if len(fitted.representation.towers) == 1:
        assert torch.equal(start.head.weights, zero_shot.head.weights)
    probabilities, wanted = start.predict_proba(dataset), zero_shot.predict_proba(dataset)
    assert np.allclose(probabilities, wanted, atol=1e-6)
    assert not np.allclose(probabilities, fitted.predict_proba(dataset), atol=1e-3)


def test_wise_ft__between_the_ends(
    clip: Backbone, dataset: ImageDataset, fitted: Classifier
) -> None:
    before = fitted.predict_proba(dataset).tobytes()
    made, a = wise_ft(clip, fitted, 0.3), 0.3
    theta_0, theta_1 = (dict(m.model.named_parameters()) for m in (clip, fitted.clip))
    for name, theta in made.clip.model.named_parameters():
        assert torch.allclose(theta, 0.7 * theta_0[name] + 0.3 * theta_1[name], atol=1e-6)
    moved = {n for n, theta in theta_1.items() if not torch.equal(theta, theta_0[n])}
    assert moved
    if fitted.method == "flyp":
        assert "logit_scale" in moved
        assert torch.allclose(made.head.weights, texts(made.clip), atol=1e-6)
    else:
        p_0 = (
            texts(clip)
            if len(fitted.representation.towers) == 1
            else torch.cat([texts(clip)] * 2, 1) / 2**0.5
        )
        wanted = [(1 - a) * p + a * q for p, q in zip(p_0, fitted.head.weights, strict=True)]
        rows = torch.stack([row / row.norm() for row in wanted])
        assert torch.allclose(made.head.weights, rows, atol=1e-6)
    assert torch.allclose(made.head.weights.norm(dim=1), torch.ones(4), atol=1e-6)
    assert (made.fields["wise_ft"], made.method) == (0.3, fitted.method)
    assert "wise_ft" not in fitted.fields
    assert fitted.predict_proba(dataset).tobytes() == before


def test_wise_ft__default_is_half_and_comes_back_from_disk(
    clip: Backbone, dataset: ImageDataset, fitted: Classifier, tmp_path: Path
) -> None:
    made = wise_ft(clip, fitted)
    assert made.fields["wise_ft"] == 0.5
    made.save(tmp_path / "half")
    again = Classifier.load(tmp_path / "half", engine="torch")
    assert again.predict_proba(dataset).tobytes() == made.predict_proba(dataset).tobytes()
    fitted.save(tmp_path / "end")
    loaded = wise_ft(clip, Classifier.load(tmp_path / "end", engine="torch"))
    assert loaded.predict_proba(dataset) == pytest.approx(made.predict_proba(dataset), abs=1e-5)


def test_wise_ft__of_what_was_never_trained(clip: Backbone, dataset: ImageDataset) -> None:
    ensemble = ZeroShot(ensemble=True).fit(FeatureStore(clip, dataset), lambda **_: None)
    assert torch.equal(wise_ft(clip, ensemble, 0.5).head.weights, ensemble.head.weights)


def test_wise_ft__refuses(
    clip: Backbone, fitted: Classifier, tiny_clip: Callable[..., str]
) -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(RequestError, match="between 0 and 1"):
            wise_ft(clip, fitted, share)
    with pytest.raises(RequestError, match="was fitted on .*, not local-dir:"):
        wise_ft(Backbone.load(tiny_clip("timm"), engine="torch"), fitted)


def test_mix_prototypes__loop() -> None:
    noise = torch.Generator().manual_seed(0)
    start, end = (normalize(torch.randn(5, 7, generator=noise), dim=1) for _ in range(2))
    for c, row in enumerate(mix_prototypes(start, end, 0.25)):
        wanted = [0.75 * float(p) + 0.25 * float(q) for p, q in zip(start[c], end[c], strict=True)]
        assert row.tolist() == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-6)
    assert torch.equal(mix_prototypes(start, end, 0.0), start)
    assert torch.equal(mix_prototypes(start, end, 1.0), end)
