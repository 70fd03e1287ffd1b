"""Several prompts per class: every method that uses texts of names takes their normalised mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anyclass import Classifier, evaluate, predict
from anyclass.backbone import Backbone
from anyclass.commands.fit import fit
from anyclass.data import ImageDataset
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, fill
from anyclass.files import read_json
from anyclass.log import silent
from anyclass.methods import METHODS

PROMPTS = {
    "red square": ["red square", "plain red"],
    "blue disc": "blue disc",
    "yellow kite": [],
    "green ring": ["ring", "green", "round"],
}


def texts(clip: Backbone) -> torch.Tensor:
    """The slow truth: a loop over classes and phrases."""
    rows = []
    for name, prompts in PROMPTS.items():
        phrases = [prompts] if isinstance(prompts, str) else prompts or [name]
        mean = clip.texts([fill(PLAIN, phrase) for phrase in phrases]).mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


@pytest.fixture
def data(images: Path, tiny_backbone: Callable[..., Backbone], own_cache: Path) -> FeatureStore:
    return FeatureStore(tiny_backbone(), ImageDataset.read(images, PROMPTS, "folders"))


def test_zero_shot__classifies_by_the_mean(data: FeatureStore) -> None:
    classifier = METHODS["zero-shot"]().fit(data, silent, None, 0)
    assert torch.allclose(classifier.head.weights, texts(data.clip), atol=1e-6)


def test_open_world__gets_the_mean(data: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.allclose(data.class_features([PLAIN]), texts(data.clip), atol=1e-6)
    classifier = METHODS["open-world"]().fit(data, silent, None, 0)
    assert classifier.classes.all_prompts[3] == ("ring", "green", "round")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("flyp", "latteclip", "ship")]


@pytest.mark.parametrize("method", ["reclip", "tip-adapter", "gda", *SLOW])
def test_methods__take_classes_with_several_prompts(data: FeatureStore, method: str) -> None:
    options: dict[str, Any] = {"reclip": {"epochs": 1}}.get(method, {})
    classifier = METHODS[method](**options).fit(data, silent, None, 0)
    assert classifier.classes == data.dataset.classes


def test_run__keeps_prompts_for_predict_and_the_next_round(
    images: Path, tiny_clip: Callable[..., str], tmp_path: Path
) -> None:
    more = {"model": tiny_clip(), "device": "cpu", "engine": "torch"}
    run = tmp_path / "run"
    fit("zero-shot", run, images=images, classes=PROMPTS, **more)
    assert read_json(run / "classes.json")["synonyms"][3] == ["green", "round"]
    classifier = Classifier.load(run / "model")
    assert classifier.classes.all_prompts[0] == ("red square", "plain red")
    assert torch.allclose(classifier.head.weights, texts(classifier.clip), atol=1e-6)
    assert predict(run, images, tmp_path / "p.csv")["n"] == 14
    assert evaluate(run, images)["n"] == 14
    fit("zero-shot", tmp_path / "two", from_run=run)
    assert read_json(tmp_path / "two" / "classes.json") == read_json(run / "classes.json")
