"""A classifier as an ONNX file: every head, beside PyTorch; what cannot be exported says so."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import Adapter, CacheModel, CosineHead, Head, MetaNet, WhitenedLinear
from anyclass.classifier.precomputed import Precomputed
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.classifier.representation import Representation
from anyclass.data import Classes, ImageDataset
from anyclass.errors import AnyclassError, RequestError
from anyclass.estimators.linear import Linear
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.estimators.whitening import WhitenedPCA
from anyclass.exporting import onnx_model
from anyclass.exporting.onnx_model import write_onnx

C = 5
D = 24
H = 32
E = D + H + 1
CLASSES = Classes.of(("zebra", "blue_jay", "Häher", "ant", "x, y"))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whitened() -> WhitenedLinear:
    spaces = {
        f"{letter}_{name}": drawn(*shape, seed=seed)
        for seed, (letter, width, rank) in enumerate((("x", D, 6), ("h", H, 4)))
        for name, shape in {
            "centre": (width,),
            "whiten": (width, width),
            "middle": (width,),
            "axes": (width, rank),
        }.items()
    }
    return WhitenedLinear(WhitenedPCA(**spaces, share=0.4), drawn(C, 11, seed=7))


def classifier(clip: Backbone, kind: str) -> Classifier:
    """A classifier with a head of that kind, all numbers drawn."""
    unit = normalize(drawn(C, D, seed=1), dim=1)
    keys = normalize(drawn(9, D, seed=2), dim=1)
    labels = torch.arange(9) % C
    one = Representation((clip,))
    both = Representation((clip,), space="both")
    pooled = Representation((clip,), space="pooled")
    twice = Representation((clip, clip.copy()), part="head")
    scores = torch.linspace(-4, 0, 201)
    kinds: dict[str, tuple[Representation, Head]] = {
        "cosine": (one, CosineHead(unit, clip.logit_scale.detach())),
        "adapter": (one, Adapter(drawn(7, D, seed=3), drawn(D, 7, seed=4), 0.3, unit, 9.0)),
        "cache": (one, CacheModel(keys, labels, drawn(9, seed=5), 1.5, 3.0, unit, 9.0)),
        "kmeans": (pooled, Linear(drawn(C, H, seed=6), drawn(C, seed=7), 8.0)),
        "gda": (both, Linear(0.1 * drawn(C, E, seed=8), None, 5.0)),
        "whitened": (both, whitened()),
        "reclip": (twice, CosineHead(torch.cat([unit, unit.flip(0)], 1) / 2**0.5, 9.0)),
        "known": (both, OpenWorldModel(drawn(C, E, seed=9), torch.zeros(0, E), scores)),
        "unknown": (both, OpenWorldModel(drawn(C, E, seed=9), drawn(3, E, seed=10), scores)),
    }
    representation, head = kinds[kind]
    return Classifier(representation, head, CLASSES, kind)


@pytest.fixture(scope="module")
def exported(
    tiny_backbone: Callable[..., Backbone], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Classifier, Path, onnx_model.OnnxCheck]:
    """An open-world classifier with unknown classes, exported once."""
    found = classifier(tiny_backbone(), "unknown")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return found, path, write_onnx(found, path)


def test_write_onnx__the_probabilities_of_the_classifier(exported: Any, images: Path) -> None:
    found, path, _ = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [entry.shape for entry in session.get_inputs()] == [["n", "h", "w", 3]]
    dataset = ImageDataset.read(images)
    for part in found.stream(dataset):
        assert part.familiarity is not None
        for index, p, familiarity in zip(
            part.rows, part.probabilities, part.familiarity, strict=True
        ):
            pixels = np.asarray(Image.open(dataset.path(index)).convert("RGB"))
            ours = session.run(None, {"images": pixels[None]})
            assert np.allclose(ours[0][0], p, atol=1e-5)
            assert abs(ours[1][0] - float(familiarity)) <= 1 / 200  # one quantile


def test_write_onnx__a_batch_of_any_size(exported: Any) -> None:
    _, path, _ = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (3, 70, 41, 3), np.uint8)
    p, familiarity, outlier = session.run(None, {"images": images})
    assert (p.shape, familiarity.shape, outlier.shape) == ((3, C), (3,), (3,))
    assert np.allclose(p.sum(1), 1, atol=1e-5)
    one = session.run(None, {"images": images[2:]})
    assert np.allclose(one[0][0], p[2], atol=1e-5)


def test_write_onnx__metadata(exported: Any) -> None:
    found, path, check = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(CLASSES.names)
    assert json.loads(about["largest_difference"]) == check.largest_difference
    assert max(check.largest_difference.values()) < 1e-4
    assert check.images == 4
    assert about["model"] == "a local folder"
    assert about["onnxruntime"] == onnxruntime.__version__
    assert json.loads(about["preprocessing"]) == found.clip.preprocessing.to_json()
    assert about["decoding"] == "JPEGs at their full size"
    reduced = replace(found.clip.preprocessing, decoding="reduced")
    assert onnx_model._decoding(reduced).endswith("that leaves the shorter side 144 pixels")
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert str(Path(onnx_model.__file__).parents[2]).encode() not in path.read_bytes()


def test_example__labels_images_with_onnxruntime_alone(exported: Any, images: Path) -> None:
    found, path, _ = exported
    files = [images / "red square" / "0.jpg", images / "yellow kite" / "1.png"]
    damaged = images / "damaged.jpg"
    damaged.write_bytes(b"no image")
    example = Path(__file__).parents[2] / "examples" / "onnx_predict.py"
    command = [sys.executable, str(example), str(path), *map(str, [damaged, *files])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    p = found.predict_proba(files)
    wanted = [
        f"{file}\t{found.classes_[row.argmax()]}\t{row.max():.3f}"
        for file, row in zip(files, p, strict=True)
    ]
    assert done.stdout.splitlines() == wanted
    assert str(damaged) in done.stderr and "Traceback" not in done.stderr
    imported = re.findall(r"^(?:import|from) (\w+)", example.read_text("utf-8"), re.MULTILINE)
    assert set(imported) == {"json", "sys", "numpy", "onnxruntime", "PIL"}


def test_example__is_shown_in_the_guide() -> None:
    root = Path(__file__).parents[2]
    code = (root / "examples" / "onnx_predict.py").read_text("utf-8")
    guide = (root / "docs" / "guides" / "export.md").read_text("utf-8")
    assert f"```py\n{code[code.index('import json') :]}```" in guide


def test_write_onnx__refuses_a_model_that_differs(
    tiny_backbone: Callable[..., Backbone],
    exported: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The graph of another classifier is found out, and nothing is written."""
    found, path, _ = exported
    monkeypatch.setattr(onnx_model, "_model", lambda _: onnx.load(path))
    other = replace(found, head=replace(found.head, weights=-found.head.weights))
    with pytest.raises(AnyclassError, match="is not written: its probabilities differ"):
        write_onnx(other, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["cosine", "adapter", "cache", "kmeans", "gda", "whitened", "reclip", "known"]
)
def test_write_onnx__every_head(
    tiny_backbone: Callable[..., Backbone], kind: str, tmp_path: Path
) -> None:
    check = write_onnx(classifier(tiny_backbone(), kind), tmp_path / "model.onnx")
    assert check.largest_difference["probabilities"] < 1e-5
    assert (len(check.largest_difference) == 3) == (kind == "known")


@pytest.mark.slow
def test_write_onnx__every_image_encoder(every_backbone: Backbone, tmp_path: Path) -> None:
    width = every_backbone.fingerprint().shape[1]
    head = CosineHead(normalize(drawn(C, width, seed=1), dim=1), 9.0)
    found = Classifier(Representation((every_backbone,)), head, CLASSES, "zero-shot")
    check = write_onnx(found, tmp_path / "model.onnx")
    assert check.largest_difference["probabilities"] < 1e-5


def test_write_onnx__cocoop_says_why_not(
    tiny_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    clip = tiny_backbone()
    learner = PromptLearner(clip, CLASSES.prompts, 3)
    width = learner.width
    layers = (drawn(6, D, seed=1), drawn(6, seed=2), drawn(width, 6, seed=3), drawn(width, seed=4))
    head = MetaNet(drawn(3, width, seed=0), *layers, learner, 9.0)
    found = Classifier(Representation((clip,)), head, CLASSES, "cocoop")
    with pytest.raises(RequestError, match="cocoop encodes all class names anew for each image"):
        write_onnx(found, tmp_path / "model.onnx")


def test_write_onnx__a_classifier_of_features_says_why_not(tmp_path: Path) -> None:
    representation = Precomputed(D, 0, torch.zeros(0, D), 10.0, "projected")
    found = Classifier(representation, CosineHead(drawn(C, D, seed=1), 9.0), CLASSES, "open-world")
    with pytest.raises(RequestError, match="has no model that reads images"):
        write_onnx(found, tmp_path / "model.onnx")
