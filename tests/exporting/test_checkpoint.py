"""A trained model as open_clip loads it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.representation import Representation
from anyclass.data import Classes
from anyclass.errors import AnyclassError, RequestError
from anyclass.exporting import checkpoint
from anyclass.exporting.checkpoint import write_checkpoint
from anyclass.files import read_json

CLASSES = Classes.of(("zebra", "blue_jay", "ant"))


def trained(clip: Backbone, part: Any) -> Classifier:
    """A classifier whose model was trained: every parameter of the part is another one."""
    changed = clip.copy()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in changed.parameters(part).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    weights = normalize(torch.ones(3, clip.fingerprint().shape[1]), dim=1)
    representation = Representation((changed,), part)
    return Classifier(representation, CosineHead(weights, 9.0), CLASSES, "latteclip")


def test_write_checkpoint__open_clip_gives_the_same_features(
    every_backbone: Backbone, tmp_path: Path
) -> None:
    found = trained(every_backbone, "all")
    folder = tmp_path / "model"
    differences = write_checkpoint(found, folder)
    assert differences == {"folder": str(folder), "image_features": 0.0, "text_features": 0.0}
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = ["a photo of a zebra.", "big dog"]
    with torch.no_grad():
        images = model.encode_image(found.clip.synthetic(), normalize=True)
        words = model.encode_text(tokenize(texts), normalize=True)
    assert torch.allclose(images, found.clip.images(found.clip.synthetic()), atol=1e-5)
    assert torch.allclose(words, found.clip.texts(texts), atol=1e-5)
    assert not torch.allclose(images, every_backbone.images(found.clip.synthetic()), atol=1e-3)
    assert Backbone.load(f"local-dir:{folder}").preprocessing == found.clip.preprocessing


def test_write_checkpoint__open_clip_knows_nothing_of_decoding(
    tiny_clip: Callable[..., str], tmp_path: Path
) -> None:
    found = trained(Backbone.load(tiny_clip(), decoding="reduced"), "all")
    write_checkpoint(found, tmp_path / "model")
    written = read_json(tmp_path / "model" / "open_clip_config.json")["preprocess_cfg"]
    assert "decoding" not in written


def test_write_checkpoint__says_where_the_model_was_not_trained(
    tiny_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    found = replace(trained(tiny_backbone(), "head"), method="gda")
    frozen = replace(found, representation=Representation((tiny_backbone(),)))
    with pytest.raises(RequestError, match="gda did not train the model"):
        write_checkpoint(frozen, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_write_checkpoint__a_difference_is_an_error(
    tiny_backbone: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trained(tiny_backbone(), "head")
    before = tiny_backbone()
    monkeypatch.setattr(checkpoint.Backbone, "load", lambda *_, **__: before)
    with pytest.raises(AnyclassError, match="differ from the run's by up to"):
        write_checkpoint(found, tmp_path / "model")
