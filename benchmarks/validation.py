"""Weights of Tip-Adapter and GDA by the validation split of a set, as their authors select them.

Only validation images of the labelled classes are used, among these classes: the others have no
image before the test. Features of the test view.
"""

from dataclasses import replace
from typing import NamedTuple

import torch

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CacheModel
from anyclass.data import ImageDataset
from anyclass.estimators.linear import Linear
from anyclass.features.store import FeatureStore
from anyclass.features.text import class_features
from anyclass.log import silent
from anyclass.methods import gda, tip_adapter
from anyclass.methods.few_shot import PUBLISHED_SCALE
from anyclass.methods.labelled_features import LabelledFeatures


class TipSettings(NamedTuple):
    """Settings of Tip-Adapter for a set: its released configurations."""

    alpha: float
    """Weight of the cache model in training."""
    beta_max: float
    """Upper bound of the search for beta."""
    alpha_max: float
    """Upper bound of the search for alpha."""
    epochs: int = 20
    """Epochs of training."""


TIP_ADAPTER = {
    "imagenet": TipSettings(1.17, 7, 3),
    "caltech101": TipSettings(3, 12, 5),
    "oxford_pets": TipSettings(1.17, 7, 3),
    "stanford_cars": TipSettings(3, 20, 10),
    "flowers102": TipSettings(10, 50, 50),
    "food101": TipSettings(1.17, 10, 10),
    "fgvc_aircraft": TipSettings(5, 30, 30),
    "sun397": TipSettings(1.17, 12, 10),
    "dtd": TipSettings(2, 13, 13),
    "eurosat": TipSettings(2, 12, 10, epochs=100),
    "ucf101": TipSettings(3, 7, 3),
}
"""Those of other sets are ImageNet's."""


def labelled_features(clip: Backbone, images: ImageDataset) -> LabelledFeatures:
    """Features of the test view of labelled images, as one view each."""
    x = FeatureStore(clip, images).image_features("head", silent)
    return LabelledFeatures(x[:, None], torch.tensor(images.labels), images.files)


@torch.no_grad()
def selected(fitted: Classifier, images: ImageDataset) -> Classifier:
    """A classifier with alpha (and beta) by the accuracy on validation images.

    Args:
        fitted: Tip-Adapter, or GDA with alpha 1, alone or after SHIP; others are returned as they
            are.
        images: validation images of the labelled classes; none: nothing is selected.
    """
    how = fitted.fields.get("then", fitted.fields)
    head = fitted.head
    if not len(images) or how.get("kind") not in ("tip-adapter", "gda"):
        return fitted
    held_out = labelled_features(fitted.clip, images)
    if isinstance(head, CacheModel):
        bounds = tip_adapter.GridBounds(how["beta_max"], how["alpha_max"])
        found = tip_adapter.grid_search(head, held_out, held_out.classes, bounds)
        metrics = {"alpha": found.alpha * PUBLISHED_SCALE / float(head.scale), "beta": found.beta}
        return _with(fitted, found, metrics)
    assert isinstance(head, Linear)
    t = class_features(fitted.clip, fitted.classes.all_prompts, [fitted.template])
    own = slice(t.shape[1])
    g = Linear(head.weights[:, own] - t, head.weights[:, -1]).times(PUBLISHED_SCALE)
    alpha = gda.search_alpha(g, t, held_out, held_out.classes)
    weights = alpha * head.weights
    weights[:, own] += (1 - alpha) * t
    return _with(fitted, replace(head, weights=weights), {"alpha": alpha})


def _with(fitted: Classifier, head: CacheModel | Linear, metrics: dict[str, float]) -> Classifier:
    """The classifier with another head, and its selected values among the metrics."""
    record = replace(fitted.record, metrics={**fitted.record.metrics, **metrics})
    return replace(fitted, head=head, record=record)
