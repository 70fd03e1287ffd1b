"""Open-world: one estimator for labelled, named and unknown classes in any mix.

The project's own; the equations are in `estimators/open_world.py`.   Needs: labels for some
classes, names for some, or the number of classes.

    x    = unit features of the image tower                (N, D)
    h    = its features before the projection              (N, H)
    t    = text features of the class names                (C, D)
    n    = text features of common nouns                   (M, D)
    p    = OpenWorldClassifier.fit(x, labels, t, extra=h, negative_text=n).predict_proba

Nothing is trained by gradient, and the model is not changed.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.precomputed import represent
from anyclass.classifier.record import FitRecord
from anyclass.data import ImageDataset
from anyclass.features.precomputed import AnyFeatures
from anyclass.features.text import PLAIN, Template
from anyclass.log import Log
from anyclass.methods.few_shot import draw_shots
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import Workload

if TYPE_CHECKING:
    from anyclass.estimators.discovery_calibration import Calibration


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class OpenWorld:
    """Fits labelled, named and unknown classes together, in seconds."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="Open-world",
        situations=(Situation.ANY,),
        discovers=True,
        takes_features=True,
        settings={
            "anchor": "weight of a class name, in images",
            "max_unlabelled": "most unlabelled images to learn from",
        },
    )
    """Facts for lists, planning and the report."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """Maximum number of labels per class, drawn at random by the seed; 0: use labels only for
    scores; None: all."""
    rounds: Annotated[int, Field(ge=0)] = 3
    """EM rounds over the unlabelled images; 0: use only labels and names."""
    anchor: Annotated[float, Field(ge=0)] = 4.0
    """kappa, weight of a class name in the mean of its class, in images."""
    sharpness: Annotated[float, Field(gt=0)] = 3.0
    """q, sharpness of the class probabilities in the E step."""
    shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Smallest shrinkage of the covariance of all images towards a multiple of the identity."""
    prior: Annotated[float, Field(ge=0)] = 10.0
    """Images per class at which half of the class-prior correction of the text logits applies, less
    where the predictions are confident; 0: no correction."""
    max_unlabelled: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of unlabelled images to learn from, drawn at random by the seed; all labelled
    ones take part, and every image is labelled. Bounds memory and time of a fit on millions of
    features; None: all."""
    nouns: Annotated[int, Field(ge=0, le=4000)] = 1000
    """M, approximate number of common nouns used as negative texts, for images of none of the
    classes; 0: none. Encoding them takes seconds to a minute, once per model."""

    @torch.no_grad()
    def fit(
        self, data: AnyFeatures, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labels, names and images.

        Args:
            data: the model, which is not changed, and readable images; or precomputed features.
            log: receives the progress.
            scratch: not used; features are cached.
            seed: random seed of the discovery of unknown classes, and of the unlabelled images that
                take part.

        Raises:
            RequestError: nothing is known of the classes.
        """
        from anyclass.estimators.open_world import OpenWorldClassifier

        dataset = self._with_shots(data.dataset, seed)
        x, h = data.arrays(log)  # (N, D), (N, H)
        texts = self._texts(data, log)
        estimator = OpenWorldClassifier(
            unknown=dataset.classes.unknown,
            rounds=self.rounds,
            anchor=self.anchor,
            sharpness=self.sharpness,
            shrinkage=self.shrinkage,
            prior=self.prior,
            random_state=seed,
            max_unlabelled=self.max_unlabelled,
        )
        nouns = self._nouns(data, log)
        estimator.fit(
            x, dataset.labels, texts, data.logit_scale, extra=h, negative_text=nouns, log=log
        )
        record = FitRecord(
            trained_on=dataset.labelled.files,
            contributions=estimator.contributions_,
            opinions=estimator.opinion_.tolist(),
            opinion_scores=estimator.opinion_score_.tolist(),
            label_quality=estimator.label_quality_.tolist(),
            suspicious=np.flatnonzero(estimator.suspicious_).tolist(),
            expected=_expected(estimator.calibration_),
        )
        representation = represent(data, "both")
        classes = dataset.classes.with_discovered()
        head = estimator.model_
        return Classifier(representation, head, classes, "open-world", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return Workload()

    def _with_shots(self, dataset: ImageDataset, seed: int) -> ImageDataset:
        """Hide all labels but `shots` of each class."""
        if self.shots is None:
            return dataset
        chosen = draw_shots(dataset.labels, self.shots, seed)
        labels = np.full(len(dataset), -1)
        labels[chosen] = dataset.labels[chosen]
        return replace(dataset, labels=labels)

    def _texts(self, data: AnyFeatures, log: Log) -> Float[Tensor, "C D"] | None:
        """Text features of the classes; None if no class has a name."""
        if not len(data.dataset.classes):
            return None
        return data.class_features([self.template], log).cpu()

    def _nouns(self, data: AnyFeatures, log: Log) -> Float[Tensor, "M D"] | None:
        """Text features of nouns; None if no class has a name."""
        if not len(data.dataset.classes):
            return None
        return data.noun_features(self.template, self.nouns, log)


def _expected(found: "Calibration | None") -> dict[str, float]:
    """What hidden labels say of unlabelled images, for the record."""
    if found is None:
        return {}
    return {
        "accuracy": found.accuracy,
        "calibration_error": found.error,
        "temperature": found.temperature,
        "images": found.images,
        "classes": found.classes,
    }
