"""SHIP-plus: a Gaussian mixture with text priors, labelled and unlabelled images.

The project's own, after SHIP (arXiv 2307.07397), TransCLIP (arXiv 2406.01837) and Gaussian
discriminant analysis on CLIP (arXiv 2402.04087).   Needs: labels for some classes, a name for each.

    l_ic = x_i . p_c / tau                                   logits by class prompts
    z_ic = softmax_c( l_ic + w g_c(h_i) + s' log pi_c )      class probabilities: `gaussian_em.py`;
                                                             one-hot for labelled images
    argmax_c of the same, g and pi from all images           the classifier

SHIP synthesises features of classes without a labelled image. Often the same folder holds images
of these classes without a label; SHIP-plus uses them instead. Nothing is trained by gradient.
Letters: N images, C classes, D dimensions, x (N, D) unit features, h (N, H) features of the image
tower before its projection, p (C, D) text features of the classes.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.gaussian_em import GaussianEM
from anyclass.estimators.linear import Linear
from anyclass.features.cache import Embedding
from anyclass.features.extract import tower_features
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template
from anyclass.log import Log
from anyclass.methods.few_shot import draw_shots, refuse_one_class
from anyclass.methods.workload import Workload


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class ShipPlus:
    """Fits a Gaussian per class to labelled and unlabelled images, in seconds."""

    discovers: ClassVar[bool] = False
    """Whether the method discovers classes without a name."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name."""
    shots: Annotated[int, Field(gt=0)] | None = None
    """Maximum number of labels per class, drawn at random by the seed; None: all."""
    unlabelled: bool = True
    """Also fit on the unlabelled images; disable it if many of them show none of the classes."""
    gaussians: Annotated[GaussianEM, arg(name="")] = GaussianEM(rounds=1, weight=8.0)
    """Gaussian mixture with text priors."""
    alone: Annotated[float, Field(ge=0)] = 2.0
    """Maximum weight of the Gaussians if every image has a label, so that named classes have no
    images at all."""

    @torch.no_grad()
    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labels, names and images.

        Args:
            data: the model, which is not changed, and readable images, some labelled.
            log: receives the share of images that leave their zero-shot class, for each round.
            scratch: not used; features are cached.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, or no image with a label.
        """
        clip = data.clip
        dataset = self._training_images(data.dataset, seed)
        data = data.of(dataset)
        x = data.image_features("head", log)  # (N, D)
        h = tower_features(data.embed(Embedding("head"), log)).to(x)  # (N, H)
        p = data.class_features([self.template])
        scale = clip.logit_scale
        logits = scale * x @ p.T  # l (N, C)
        mean = h.mean(0)
        labels = torch.tensor(dataset.labels, device=h.device)
        em = self.gaussians
        if (labels >= 0).all():
            em = replace(em, weight=min(em.weight, self.alone))
        learned = em.learn(logits, h - mean, labels, log, seed).uncentred(mean)
        adapted = logits + h @ learned.weights.T + learned.intercept
        changed = adapted.argmax(1) != logits.argmax(1)
        known = dataset.labels >= 0
        record = FitRecord(
            trained_on=dataset.labelled.files,
            facts={
                "labelled_images": int(known.sum()),
                "unlabelled_images": int((~known).sum()),
                "agreement_with_zero_shot": float(1 - changed.float().mean()),
            },
            zero_shot_labels=logits.argmax(1).tolist(),
        )
        head = Linear(learned.with_text_logits(p, scale), scale=scale.detach())
        representation = Representation((clip,), space="both")
        classes = dataset.classes
        return Classifier(representation, head, classes, "ship-plus", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return Workload()

    def _training_images(self, dataset: ImageDataset, seed: int) -> ImageDataset:
        """Select the images and labels to fit on."""
        refuse_one_class(dataset.classes, "SHIP-plus")
        chosen = draw_shots(dataset.labels, self.shots, seed)
        if not len(chosen):
            raise RequestError(
                "no image has a label: give labels (--labels folders|FILE), or use "
                "latteclip-plus, which needs only class names"
            )
        labels = np.full(len(dataset), -1)
        labels[chosen] = dataset.labels[chosen]
        used = replace(dataset, labels=labels)
        return used if self.unlabelled else used.labelled
