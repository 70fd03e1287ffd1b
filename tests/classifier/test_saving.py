"""Files of version 0.1, written by hand here, load and predict as they did.

C = 5 classes, D = 24, H = 32 before the projection, k = 9 keys, L = 3 places, W = 40.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.prompt_learner import PromptLearner
from anyclass.classifier.record import FitRecord
from anyclass.data import Classes, ImageDataset, open_image

Tiny = Callable[..., str]
CLASSES = Classes.of(("big dog", "kite-7", "red_toy", "art", "soft paper b2"))
DEFAULTS = {"beside": False, "own": False, "head": None, "pooled": False, "scale": None}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Seen:
    """A model's features of the test images."""

    def __init__(self, clip: Backbone, root: Path) -> None:
        dataset = ImageDataset.read(root)
        views = [clip.preprocessing.view(open_image(dataset.path(i))) for i in range(len(dataset))]
        with torch.no_grad():
            pixels = clip.preprocessing.normalise(torch.stack(views))
            self.x = clip.images(pixels)
            self.h = clip.pooled(pixels, "all")
            self.s = float(clip.logit_scale)
        self.rows = torch.cat([self.x, self.h, torch.ones(len(self.x), 1)], dim=1)


class Old:
    """One layout of 0.1: what stood in the files, and the logits that it meant."""

    def __init__(self, clip: Backbone, kind: str, root: Path) -> None:
        self.clip, self.root = clip, root
        self.method = "zero_shot"
        self.part: str | None = None
        self.settings: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.trained = clip
        self.fingerprint = clip.fingerprint()
        self.weights = normalize(drawn(5, 24, seed=1), dim=1)
        self.logits: Callable[[Seen], Tensor] = lambda of: of.s * of.x @ self.weights.T
        getattr(self, kind)()

    def cosine(self) -> None:
        """Class texts."""

    def trained_head(self) -> None:
        """LatteCLIP on the head."""
        self.method, self.part = "latteclip", "head"
        self.train()
        self.fingerprint = self.trained.fingerprint()

    def train(self) -> None:
        self.trained = self.clip.copy()
        with torch.no_grad():
            for name, parameter in self.trained.parameters("head").items():
                parameter.mul_(1.1)
                self.tensors[f"parameter.{name}"] = parameter.detach().clone()

    def two_towers(self) -> None:
        """ReCLIP: prototypes for either tower side by side."""
        self.method, self.part, self.settings = "reclip", "head", {"beside": True}
        self.train()
        prints = [self.trained.fingerprint(), self.clip.fingerprint()]
        self.fingerprint = torch.cat(prints, dim=1) / 2**0.5
        self.weights = drawn(5, 48, seed=2)

        def logits(of: Seen) -> Tensor:
            before = Seen(self.clip, self.root).x
            return of.s * torch.cat([of.x, before], dim=1) / 2**0.5 @ self.weights.T

        self.logits = logits

    def latteclip_plus(self) -> None:
        """LatteCLIP-plus, which open-world replaced."""
        self.both_spaces("latteclip_plus")

    def ship_plus(self) -> None:
        """SHIP-plus, which open-world replaced."""
        self.both_spaces("ship_plus")

    def both_spaces(self, method: str = "gda") -> None:
        """GDA: weights of [x | h | 1]."""
        self.method, self.settings = method, {"own": True}
        self.weights = 0.1 * drawn(5, 24 + 32 + 1, seed=3)
        self.logits = lambda of: of.s * of.rows @ self.weights.T

    def pooled(self) -> None:
        """k-means: centres, their bias, and a temperature of its own."""
        self.method, self.settings = "kmeans", {"pooled": True, "scale": 10.0}
        self.weights, self.tensors = drawn(5, 32, seed=4), {"bias": drawn(5, seed=5)}
        v = self.weights
        self.logits = lambda of: 10 * (normalize(of.h, dim=1) @ v.T + self.tensors["bias"])

    def adapter(self) -> None:
        """CLIP-Adapter."""
        self.method, self.settings = "clip_adapter", {"head": {"kind": "adapter", "ratio": 0.3}}
        w1, w2 = drawn(7, 24, seed=6), drawn(24, 7, seed=7)
        self.tensors = {"head.w1": w1, "head.w2": w2}

        def logits(of: Seen) -> Tensor:
            mixed = 0.3 * (w2 @ (w1 @ of.x.T).relu()).relu().T + 0.7 * of.x
            return of.s * normalize(mixed, dim=1) @ self.weights.T

        self.logits = logits

    def keys(self) -> None:
        """Tip-Adapter."""
        self.method = "tip_adapter"
        self.settings = {"head": {"kind": "keys", "alpha": 1.3, "beta": 5.5}}
        keys = normalize(drawn(9, 24, seed=8), dim=1)
        values = torch.eye(5)[[0, 1, 1, 2, 3, 4, 4, 4, 0]]
        self.tensors = {"head.keys": keys, "head.values": values}

        def logits(of: Seen) -> Tensor:
            near = (-5.5 * (1 - of.x @ keys.T)).exp() @ values
            return of.s * of.x @ self.weights.T + 1.3 * near

        self.logits = logits

    def conditional(self) -> None:
        """CoCoOp, whose saved texts are not used."""
        self.method, self.settings = "cocoop", {"head": {"kind": "conditional"}}
        shapes = {"context": (3, 40), "u1": (7, 24), "c1": (7,), "u2": (40, 7), "c2": (40,)}
        own = {name: 0.1 * drawn(*shape, seed=9) for name, shape in shapes.items()}
        self.tensors = {f"head.{name}": tensor for name, tensor in own.items()}
        learner = PromptLearner(self.clip, CLASSES.prompts, 3)

        def logits(of: Seen) -> Tensor:
            rows = []
            for x in of.x:
                shift = own["u2"] @ (own["u1"] @ x + own["c1"]).relu() + own["c2"]
                rows.append(of.s * learner.all_features(own["context"] + shift) @ x)
            return torch.stack(rows)

        self.logits = logits

    def spaces(self) -> None:
        """GET-plus, which open-world replaced."""
        self.method = "get_plus"
        self.settings = {"own": True, "head": {"kind": "spaces", "share": 0.4}}
        shapes = {"x_centre": (24,), "x_whiten": (24, 24), "x_middle": (24,), "x_axes": (24, 6)}
        shapes |= {"h_centre": (32,), "h_whiten": (32, 32), "h_middle": (32,), "h_axes": (32, 9)}
        own = {name: drawn(*shape, seed=10) for name, shape in shapes.items()}
        self.tensors = {f"head.{name}": tensor for name, tensor in own.items()}
        self.weights = drawn(5, 16, seed=11)

        def reduced(rows: Tensor, of: str) -> Tensor:
            a = normalize((rows - own[f"{of}_centre"]) @ own[f"{of}_whiten"], dim=1)
            return normalize((a - own[f"{of}_middle"]) @ own[f"{of}_axes"], dim=1)

        def logits(of: Seen) -> Tensor:
            u = torch.cat([reduced(of.h, "h"), 0.4 * reduced(of.x, "x")], dim=1)
            return normalize(u, dim=1) @ self.weights[:, :-1].T + self.weights[:, -1]

        self.logits = logits


LAYOUTS = ("cosine", "trained_head", "two_towers", "both_spaces", "pooled")
LAYOUTS += ("adapter", "keys", "conditional", "spaces", "latteclip_plus", "ship_plus")


def written(old: Old, folder: Path, leave_out: tuple[str, ...] = ()) -> None:
    tensors = {"weights": old.weights, "fingerprint": old.fingerprint} | old.tensors
    save_file(tensors, folder / "classifier.safetensors")
    settings = {
        "format": 1,
        "method": old.method,
        "fields": {"template": "a {}."},
        "part": old.part,
        **(DEFAULTS | old.settings),
        "classes": CLASSES.to_json(),
        "model": old.clip.model_id,
        "preprocessing": old.clip.preprocessing.to_json(),
    }
    left = {name: value for name, value in settings.items() if name not in leave_out}
    (folder / "classifier.json").write_text(json.dumps(left))


@torch.no_grad()
@pytest.mark.parametrize("kind", LAYOUTS)
def test_load__a_file_of_version_0_1(
    tiny_clip: Tiny, images: Path, tmp_path: Path, kind: str
) -> None:
    old = Old(Backbone.load(tiny_clip(), engine="torch"), kind, images)
    written(old, tmp_path)
    found = Classifier.load(tmp_path, engine="torch")
    assert found.method == old.method.replace("_", "-")
    assert (found.fields, found.classes) == ({"template": "a {}."}, CLASSES)
    assert found.record == FitRecord()
    wanted = old.logits(Seen(old.trained, images)).softmax(1)
    assert torch.allclose(torch.from_numpy(found.predict_proba(images)), wanted, atol=2e-5)
    found.save(tmp_path / "again")
    names = ("classifier.json", "classifier.safetensors")
    before, after = (json.loads((f / names[0]).read_text()) for f in (tmp_path, tmp_path / "again"))
    digest = after.pop("weights_sha256")
    assert digest == old.clip.untrained_sha256(after["part"])
    assert after == before | {"method": found.method}
    tensors, again = (load_file(f / names[1]) for f in (tmp_path, tmp_path / "again"))
    if kind == "keys":
        again["head.values"] = torch.eye(5)[again.pop("head.labels").long()]
        assert again.pop("head.weights").tolist() == [1] * 9
    assert tensors.keys() == again.keys()
    unused = {"weights"} if kind == "conditional" else set()
    assert all(torch.equal(tensors[name], again[name]) for name in set(tensors) - unused)


def test_load__the_first_layout_had_no_flags(tiny_clip: Tiny, images: Path, tmp_path: Path) -> None:
    old = Old(Backbone.load(tiny_clip(), engine="torch"), "cosine", images)
    written(old, tmp_path, leave_out=tuple(DEFAULTS))
    found = Classifier.load(tmp_path, engine="torch")
    wanted = old.logits(Seen(old.clip, images)).softmax(1)
    assert torch.allclose(torch.from_numpy(found.predict_proba(images)), wanted, atol=2e-5)


def test_save__a_scale_that_is_not_the_models_is_kept(
    tiny_clip: Tiny, images: Path, tmp_path: Path
) -> None:
    """Also where it is given as a tensor."""
    old = Old(Backbone.load(tiny_clip(), engine="torch"), "cosine", images)
    written(old, tmp_path)
    found = Classifier.load(tmp_path, engine="torch")
    for scale in (3.5, torch.tensor(3.5)):
        replace(found, head=replace(found.head, scale=scale)).save(tmp_path / "other")
        again = Classifier.load(tmp_path / "other", engine="torch")
        assert again.head.scale == 3.5
