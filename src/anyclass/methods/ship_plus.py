"""SHIP-plus: labels for some classes, names for all, and the pictures nobody has labelled.

The project's own, after SHIP (arXiv 2307.07397), TransCLIP (arXiv 2406.01837) and Gaussian
discriminant analysis on CLIP (arXiv 2402.04087).   Needs: labels for some classes, a name for each.

    l_ic = x_i . p_c / tau                                   what class texts say of a picture
    z_ic = softmax_c( l_ic + w g_c(h_i) + s' log pi_c )      its classes: `gaussian_em.py`; a label
    argmax_c of the same, g and pi from all pictures         counts instead, where there is one

SHIP makes up features of classes that have no labelled picture. Their pictures are mostly there, in
the same folder, without a label: here they speak for themselves. Letters: N pictures, C classes, D
dimensions, x (N, D) unit features, h (N, H) features of the image tower before its projection,
p (C, D) class texts. No step of gradient is taken and nothing of the model changes.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Photos
from anyclass.errors import RequestError
from anyclass.estimators.gaussian_em import Gaussians
from anyclass.features.extract import Embedding, embed, image_features, tower_features
from anyclass.features.text import PLAIN, Template, class_features
from anyclass.log import Log
from anyclass.methods.few_shot import draw_shots, refuse_one_class


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class ShipPlus:
    """Fits a Gaussian per class to labelled and unlabelled pictures; in seconds."""

    template: Template = PLAIN
    """Class text; `{}` is the class."""
    shots: Annotated[int, Field(gt=0)] | None = None
    """Most labels of a class that are used, drawn by the seed; None: all."""
    unlabelled: bool = True
    """Whether pictures without a label are learned from as well."""
    gaussians: Annotated[Gaussians, arg(name="")] = Gaussians(rounds=1, weight=8.0)
    """How names, labels and pictures are brought to agree."""
    alone: Annotated[float, Field(ge=0)] = 2.0
    """Most weight of the Gaussians where every picture has a label, and named classes have none."""

    @torch.no_grad()
    def fit(
        self, clip: Backbone, photos: Photos, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labels, names and pictures.

        Args:
            clip: the model; it is left as it is.
            photos: pictures, all readable; a label of -1 is none.
            log: gets the share of pictures that leave their zero-shot class, for each round.
            scratch: not needed; what takes time is cached.

        Raises:
            RequestError: fewer than two classes, or no picture with a label.
        """
        photos = self._used(photos)
        shown = embed(clip, photos, Embedding("head"), log)
        x = image_features(clip, shown, "head")  # (N, D)
        h = tower_features(shown).to(x)  # (N, H)
        p, scale = class_features(clip, photos.classes.prompts, [self.template]), clip.logit_scale
        logits, middle = scale * x @ p.T, h.mean(0)  # l (N, C)
        labels, how = torch.tensor(photos.labels, device=h.device), self.gaussians
        if (labels >= 0).all():
            how = replace(how, weight=min(how.weight, self.alone))
        learned = how.learn(logits, h - middle, labels, log).uncentred(middle)
        moved = (logits + h @ learned.v + learned.bias).argmax(1) != logits.argmax(1)
        known = photos.labels >= 0
        record = {
            "facts": {
                "labelled_pictures": int(known.sum()),
                "unlabelled_pictures": int((~known).sum()),
                "agreement_with_zero_shot": float(1 - moved.float().mean()),
            },
            "zero_shot_labels": logits.argmax(1).tolist(),
            "learned_from": photos.labelled.files,
        }
        weights, about = learned.beside(p, scale), ("ship-plus", asdict(self), record)
        return Classifier(clip, None, photos.classes, weights, *about, own=True)

    def _used(self, photos: Photos) -> Photos:
        """The pictures that are learned from, with the labels that are."""
        refuse_one_class(photos.classes, "SHIP-plus")
        chosen = draw_shots(photos.labels, self.shots, torch.initial_seed())
        if not len(chosen):
            raise RequestError(
                "no picture has a label to learn from: give some (--labels folders|FILE), or use "
                "latteclip-plus, which needs none"
            )
        labels = np.full(len(photos), -1)
        labels[chosen] = photos.labels[chosen]
        used = replace(photos, labels=labels)
        return used if self.unlabelled else used.labelled
