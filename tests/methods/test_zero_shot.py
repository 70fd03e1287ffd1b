"""Zero-shot against loops: w_c = norm( mean_k norm( g(t_k(c)) ) ), argmax_c cos(f(x), w_c)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.openai_templates import OPENAI_TEMPLATES
from anyclass.methods.zero_shot import ZeroShot

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]


@torch.no_grad()
def slow_weights(clip: Backbone, prompts: list[str], templates: list[str]) -> torch.Tensor:
    rows = []
    for prompt in prompts:
        texts = [clip.texts([template.replace("{}", prompt)])[0] for template in templates]
        mean = sum(text / text.norm() for text in texts) / len(texts)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


@torch.no_grad()
def test_fit__labels_by_the_nearest_text(fit: Fit, clip: Backbone, dataset: ImageDataset) -> None:
    classifier, log = fit(ZeroShot())
    weights = slow_weights(clip, list(dataset.classes.prompts), ["a photo of a {}."])
    assert torch.allclose(classifier.head.weights, weights, atol=1e-6)
    wanted, probabilities = [], classifier.predict_proba(dataset)
    for i in range(len(dataset)):
        view = clip.preprocessing.view(Image.open(dataset.path(i)))
        f = clip.images(clip.preprocessing.normalise(view[None]))[0]
        cosines = [float(f @ w) / float(f.norm() * w.norm()) for w in weights]
        wanted.append(dataset.classes.names[int(np.argmax(cosines))])
        odds = np.exp(float(clip.logit_scale) * np.array(cosines))
        assert np.allclose(probabilities[i], odds / odds.sum(), atol=1e-5)
    assert classifier.predict(dataset) == wanted
    assert len(set(wanted)) == 4
    assert log == []


def test_fit__ensemble_is_the_mean_of_80_unit_texts(
    fit: Fit, clip: Backbone, dataset: ImageDataset
) -> None:
    one, many = (fit(ZeroShot(ensemble=how))[0].head.weights for how in (False, True))
    templates = list(OPENAI_TEMPLATES)
    assert len(set(templates)) == 80
    assert templates[0] == "a bad photo of a {}."
    assert torch.allclose(
        many, slow_weights(clip, list(dataset.classes.prompts), templates), atol=1e-5
    )
    assert not torch.allclose(one, many, atol=1e-3)


def test_fit__template_and_prompts(fit: Fit, clip: Backbone, dataset: ImageDataset) -> None:
    images = replace(dataset, classes=Classes.of(["red_kite", "b"], ["", "small toy"]))
    prompts = list(images.classes.prompts)
    weights = fit(ZeroShot(template="{c} texture."), images)[0].head.weights
    assert torch.allclose(weights, slow_weights(clip, prompts, ["{} texture."]), atol=1e-6)
    with pytest.raises(RequestError, match="brace"):
        fit(ZeroShot(template="a {0}"), images)


def test_fit__reads_no_image_and_no_label(fit: Fit, dataset: ImageDataset, tmp_path: Path) -> None:
    gone = replace(dataset, root=tmp_path / "gone")
    known = replace(dataset, labels=np.arange(13, dtype=np.int64) % 4)
    weights = fit(ZeroShot())[0].head.weights
    assert torch.equal(fit(ZeroShot(), gone)[0].head.weights, weights)
    assert torch.equal(fit(ZeroShot(), known)[0].head.weights, weights)


def test_fit__one_class_is_enough(fit: Fit, dataset: ImageDataset) -> None:
    classifier, _ = fit(ZeroShot(), ImageDataset.read(dataset.root, ["only one"]))
    assert classifier.predict_proba(dataset).tolist() == [[1.0]] * 13
