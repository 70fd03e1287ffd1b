"""SHIP's companions on arrays: a method with labels and synthetic features of the named classes.

SHIP's generator decodes with the text tower, so the set must say by which model it was made. As in
`ship.py`, with 64 synthetic features per class; feature files hold one view per row.
"""

from functools import partial

import numpy as np
import torch
from feature_baselines import Method, Probabilities, rows_of, silent, softmax, texts
from feature_sets import Task

from anyclass.backbone import Backbone
from anyclass.classifier.heads import Adapter, CacheModel
from anyclass.data import Classes
from anyclass.features.extract import stack_features
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.few_shot import FewShotMethod, FewShotTask
from anyclass.methods.gda import Gda
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.ship_training import train_generator
from anyclass.methods.ship_vae import Vae
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.tip_adapter import TipAdapter

COMPANIONS: dict[str, FewShotMethod] = {
    "clip-adapter": ClipAdapter(),
    "tip-adapter": TipAdapter(),
    "gda": Gda(),
}

POOL = 64
"""Synthetic features per class."""

_LAST: dict[tuple[str, int], FewShotTask] = {}
"""The last task with its generator, which the companions share."""


def with_ship(task: Task, companion: str) -> Probabilities:
    """Probabilities by one of the companions."""
    key = (task.data.name, task.seed)
    if key not in _LAST:
        _LAST.clear()
        _LAST[key] = _generated(task)
    head = COMPANIONS[companion].learn(_LAST[key], silent).head
    x = torch.from_numpy(task.data.test_x)
    if not isinstance(head, Adapter | CacheModel):  # GDA's rows are [x | h | 1]
        x = stack_features(x, torch.from_numpy(rows_of(task, "h raw")[1]))
    with torch.no_grad():
        return softmax(head.logits(x).numpy())


def _generated(task: Task) -> FewShotTask:
    """Labelled features, and a generator for the named classes."""
    torch.manual_seed(task.seed)
    given = np.flatnonzero(task.y >= 0)
    x = torch.from_numpy(task.data.train_x[given])[:, None]
    c = torch.from_numpy(task.y[given])
    labelled = LabelledFeatures(x, c, tuple(str(row) for row in given))
    clip = Backbone.load(task.data.model)
    classes = Classes.of(task.data.names[: task.known])
    t = torch.from_numpy(texts(task))
    generator = train_generator(Vae(), clip, labelled, classes, t, silent, seed=task.seed)
    named = torch.arange(task.labelled, task.known)
    synthetic = SyntheticFeatures(named, generator.sample, task.seed, pool=POOL)
    return FewShotTask(clip, labelled, classes, synthetic, seed=task.seed)


SHIP = {
    f"{name} + SHIP": Method(partial(with_ship, companion=name), "text model")
    for name in COMPANIONS
}
"""Baselines of labels for some classes and names for the others, by the package's model."""
