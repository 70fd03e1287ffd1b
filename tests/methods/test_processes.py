"""Training shared by processes: the result of one, for every method that trains an encoder."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.features.store import FeatureStore
from anyclass.log import silent
from anyclass.methods.flyp import Flyp
from anyclass.methods.gcd import Gcd
from anyclass.methods.gcd_common import MlpShape
from anyclass.methods.get import Get
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.simgcd import Objective, SimGcd
from anyclass.training.optim import LearningRate, Sgd
from anyclass.training.tuning import Tuning
from anyclass.training.two_views import TwoViewTuning
from tests.methods.conftest import Teller
from tests.processes import together

Weights = dict[str, np.ndarray]


def tuning(tune: Any, **more: Any) -> Tuning:
    """Six steps of batches of 7: two processes have 3 and 4 images each."""
    return Tuning(**{"tune": tune, "lr": 2e-3, "steps": 6, "batch_size": 7, "views": 2} | more)


def latteclip(tune: Any, **more: Any) -> LatteClip:
    texts = {"captioner": Teller(), "group_size": 2, "groups": 2, "alpha": 0.7, "mu": 0.8}
    own = {name: more.pop(name) for name in vars(Tuning()) if name in more}
    return LatteClip(tuning=tuning(tune, **own), **texts, **more)


def pairs(**more: Any) -> TwoViewTuning:
    """Batches of 5 images, two views of each."""
    return TwoViewTuning(**{"epochs": 3, "batch_size": 5, "lr": 0.02, "views": 3} | more)


SHAPE = MlpShape(mlp_width=12, h_width=6)
NEVER = Objective(stop_collapsed_from=None)
METHODS: dict[str, Any] = {
    "latteclip tail": latteclip("tail"),
    "latteclip all": latteclip("all"),
    "latteclip all, in parts": latteclip("all", micro_batch=2),
    "latteclip tail, labels of an epoch": latteclip("tail", relabel="epoch", regroup="once"),
    "latteclip all, labels of test views": latteclip("all", relabel_view="weak", freeze_text=True),
    "flyp tail": Flyp(tuning=tuning("tail")),
    "flyp all": Flyp(tuning=tuning("all")),
    "simgcd": SimGcd(tuning=pairs(), head=SHAPE, objective=NEVER),
    "simgcd, new views": SimGcd(tuning=pairs(views=0), head=SHAPE, objective=NEVER),
    "get": Get(tuning=pairs(), head=SHAPE, objective=NEVER, words=3, tes_epochs=2),
    "get, new views": Get(
        tuning=pairs(views=0), head=SHAPE, objective=NEVER, words=3, tes_epochs=2
    ),
    "gcd": Gcd(tuning=pairs(), head=SHAPE, rows=9, restarts=3),
}


def weights(fitted: Classifier, before: Backbone) -> Weights:
    """Trained parameters of the encoders, as far as they moved, and the weights of the head."""
    tuned = fitted.representation.towers[0].model.state_dict()
    old = before.model.state_dict()
    found = {n: t.numpy() for n, t in tuned.items() if not torch.equal(t, old[n])}
    head = {
        f"head {n}": t.detach().numpy() for n, t in vars(fitted.head).items() if torch.is_tensor(t)
    }
    return found | head


def descend(
    self: Tuning, images: int, lr: float | None = None, weight_decay: float | None = None
) -> Sgd:
    """Plain gradient descent: AdamW divides by gradients, and so amplifies their last bits."""
    return Sgd(LearningRate(0.02), weight_decay=0.1)


CASES = [*((2, name) for name in METHODS), (3, "latteclip all"), (3, "get")]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "name"), CASES)
def test_fit__by_processes_equals_one(
    name: str,
    count: int,
    clip: Backbone,
    dataset: ImageDataset,
    half_known: ImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Tuning, "schedule", descend)
    how = METHODS[name]
    images = half_known if how.info.discovers else dataset

    def fit(cache: str) -> Weights:
        monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / cache))
        return weights(how.fit(FeatureStore(clip, images), silent, None, 3), clip)

    one = fit("one")
    several = together(count, tmp_path, partial(fit, "several"))
    before = clip.model.state_dict()
    moved = max(abs(one[name] - before[name].numpy()).max() for name in one if name in before)
    assert moved > 1e-3
    for some in several:
        assert some.keys() == one.keys()
        for key, weight in some.items():
            assert (weight == several[0][key]).all(), key
            assert abs(weight - one[key]).max() < 2e-4 * moved, key
