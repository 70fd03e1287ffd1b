"""`--decoding reduced`: recorded, in the key of the cache, and the same in all that uses a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import anyclass.data.memory
from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.commands.embed import embed
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.commands.predict import predict
from anyclass.commands.run_images import image_rows
from anyclass.commands.serve import _loader
from anyclass.data.image import open_bytes
from anyclass.errors import ModelError
from anyclass.files import read_json
from anyclass.log import silent

FILES = ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four JPEGs, large for a tiny model, in two class folders."""
    root = tmp_path_factory.mktemp("photographs")
    for i, name in enumerate(FILES):
        small = np.random.default_rng(i).integers(0, 256, (15, 20, 3), dtype=np.uint8)
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(small).resize((400 + i, 300)).save(root / name, quality=90)
    return root


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Shorter sides of the images that are decoded for a model."""
    found = []

    def noted(*arguments: Any, **options: Any) -> Image.Image:
        image = open_bytes(*arguments, **options)
        found.append(min(image.size))
        return image

    monkeypatch.setattr(anyclass.data.memory, "open_bytes", noted)
    return found


@pytest.fixture
def how(photographs: Path, tiny_clip: Any) -> dict[str, Any]:
    return {"images": photographs, "model": tiny_clip(), "engine": "torch", "device": "cpu"}


def test_decoding__of_a_run_is_that_of_all_that_uses_it(
    how: dict[str, Any], photographs: Path, tmp_path: Path, sides: list[int]
) -> None:
    run = tmp_path / "run"
    fit("zero-shot", run, classes=("a", "b"), decoding="reduced", prompt_ensemble=False, **how)
    assert read_json(run / "config.json")["decoding"] == "reduced"
    about = read_json(run / "environment.json")["model"]["preprocessing"]
    assert about["decoding"] == "reduced"
    assert sides[:4] == [150] * 4, "the report decodes them in full, for thumbnails"

    used = {"engine": "torch", "device": "cpu"}
    sides.clear()
    predict(run, photographs, tmp_path / "a.csv", **used)
    assert sides == [150] * 4
    evaluate(run, photographs, prompt_ensemble=False, **used)
    base, classifier = _loader("cpu", "torch", False)(run)
    assert base.preprocessing == classifier.clip.preprocessing
    rows = image_rows(run, FILES, silent).rows
    assert sides == [150] * 4, "the cache has rows of the same decoding"
    path = photographs / FILES[0]
    assert torch.allclose(next(classifier._rows([path], None)), rows[:1], atol=1e-6)
    assert min(sides) == max(sides)

    with pytest.raises(ModelError, match="preprocessing differs .*decoding"):
        Classifier.load(run / "model", base=Backbone.load(how["model"], engine="torch"))
    settings = read_json(run / "model" / "classifier.json")
    settings["preprocessing"]["decoding"] = "smaller"
    (run / "model" / "classifier.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="preprocessing differs"):
        Classifier.load(run / "model")


def test_decoding__features_of_two_never_mix(
    how: dict[str, Any], tmp_path: Path, sides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    embed(**how, out=tmp_path / "full.npz")
    embed(**how, out=tmp_path / "reduced.npz", decoding="reduced")
    embed(**how, out=tmp_path / "again.npz", decoding="full")
    assert sides == [300] * 4 + [150] * 4
    full, reduced, again = (
        np.load(tmp_path / f"{name}.npz")["x"] for name in ("full", "reduced", "again")
    )
    assert np.array_equal(full, again)
    assert not np.array_equal(full, reduced)
    assert (full * reduced).sum(1).min() > 0.999
