"""SHIP-plus: labels for some classes, names for all, and the images nobody has labelled.

The project's own, after SHIP (arXiv 2307.07397), TransCLIP (arXiv 2406.01837) and Gaussian
discriminant analysis on CLIP (arXiv 2402.04087).   Needs: labels for some classes, a name for each.

    l_ic = x_i . p_c / tau                                   what class texts say of an image
    z_ic = softmax_c( l_ic + w g_c(h_i) + s' log pi_c )      its classes: `gaussian_em.py`; a label
    argmax_c of the same, g and pi from all images         counts instead, where there is one

SHIP makes up features of classes that have no labelled image. Their images are mostly there, in
the same folder, without a label: here they speak for themselves. Letters: N images, C classes, D
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
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.gaussian_em import GaussianEM
from anyclass.features.extract import Embedding, embed, image_features, tower_features
from anyclass.features.text import PLAIN, Template, class_features
from anyclass.log import Log
from anyclass.methods.few_shot import draw_shots, refuse_one_class


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class ShipPlus:
    """Fits a Gaussian per class to labelled and unlabelled images; in seconds."""

    template: Template = PLAIN
    """Class text; `{}` is the class."""
    shots: Annotated[int, Field(gt=0)] | None = None
    """Most labels of a class that are used, drawn by the seed; None: all."""
    unlabelled: bool = True
    """Whether images without a label are learned from as well."""
    gaussians: Annotated[GaussianEM, arg(name="")] = GaussianEM(rounds=1, weight=8.0)
    """How names, labels and images are brought to agree."""
    alone: Annotated[float, Field(ge=0)] = 2.0
    """Most weight of the GaussianEM where every image has a label, and named classes have none."""

    @torch.no_grad()
    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labels, names and images.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable; a label of -1 is none.
            log: gets the share of images that leave their zero-shot class, for each round.
            scratch: not needed; what takes time is cached.

        Raises:
            RequestError: fewer than two classes, or no image with a label.
        """
        dataset = self._used(dataset)
        labelled = embed(clip, dataset, Embedding("head"), log)
        x = image_features(clip, labelled, "head")  # (N, D)
        h = tower_features(labelled).to(x)  # (N, H)
        p, scale = class_features(clip, dataset.classes.prompts, [self.template]), clip.logit_scale
        logits, middle = scale * x @ p.T, h.mean(0)  # l (N, C)
        labels, how = torch.tensor(dataset.labels, device=h.device), self.gaussians
        if (labels >= 0).all():
            how = replace(how, weight=min(how.weight, self.alone))
        learned = how.learn(logits, h - middle, labels, log).uncentred(middle)
        moved = (logits + h @ learned.v + learned.bias).argmax(1) != logits.argmax(1)
        known = dataset.labels >= 0
        record = {
            "facts": {
                "labelled_images": int(known.sum()),
                "unlabelled_images": int((~known).sum()),
                "agreement_with_zero_shot": float(1 - moved.float().mean()),
            },
            "zero_shot_labels": logits.argmax(1).tolist(),
            "learned_from": dataset.labelled.files,
        }
        weights, about = learned.beside(p, scale), ("ship-plus", asdict(self), record)
        return Classifier(clip, None, dataset.classes, weights, *about, own=True)

    def _used(self, dataset: ImageDataset) -> ImageDataset:
        """The images that are learned from, with the labels that are."""
        refuse_one_class(dataset.classes, "SHIP-plus")
        chosen = draw_shots(dataset.labels, self.shots, torch.initial_seed())
        if not len(chosen):
            raise RequestError(
                "no image has a label to learn from: give some (--labels folders|FILE), or use "
                "latteclip-plus, which needs none"
            )
        labels = np.full(len(dataset), -1)
        labels[chosen] = dataset.labels[chosen]
        used = replace(dataset, labels=labels)
        return used if self.unlabelled else used.labelled
