"""k-means of frozen features, the baseline of class discovery: plain or semi-supervised.

Vaze et al., CVPR 2022, arXiv 2201.02609 (with labels).   Needs: the number of classes.

    argmin sum_i |x_i - mu_c(i)|^2             semi-supervised: labelled images keep their class
    c(x) = argmin_k |x - mu_k|^2 = argmax_k x . mu_k - |mu_k|^2 / 2

Letters: N images, K classes, E dimensions of unit features x, mu (K, E) centres.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.precomputed import represent
from anyclass.classifier.record import FitRecord
from anyclass.classifier.settings import Space
from anyclass.errors import RequestError
from anyclass.estimators.kmeans import (
    UNCALIBRATED,
    Clusters,
    centroid_bias,
    kmeans,
    nearest_centre,
    semi_supervised_kmeans,
)
from anyclass.estimators.linear import Linear
from anyclass.features.precomputed import AnyFeatures
from anyclass.log import Log
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.workload import Workload


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class KMeans:
    """Clusters images by frozen features in seconds, without training."""

    info: ClassVar[MethodInfo] = MethodInfo(
        title="k-means", situations=(Situation.NOTHING, Situation.UNKNOWN), discovers=True
    )
    """Facts for lists, planning and the report."""

    semi_supervised: bool = False
    """Keep labelled images in their class and initialise at the class means."""
    feature: Literal["projected", "unprojected"] = "projected"
    """Features after the projection into the joint space, or before it."""
    fit_on: Literal["unlabelled", "all"] = "unlabelled"
    """Images that plain k-means is fitted on; `semi_supervised` always uses all."""
    restarts: Annotated[int, Field(gt=0)] | None = None
    """Restarts, of which the best is kept; None: 10, or 100 with `semi_supervised` (the official
    codes)."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Temperature of the predicted probabilities, softmax(-|x - mu|^2 / 2 temperature); None: that
    at which the mean score is the share of images on which clusterings agree. Classes do not depend
    on it."""

    @torch.no_grad()
    def fit(
        self, data: AnyFeatures, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Cluster the images; labelled ones determine which cluster is which class.

        Args:
            data: the model, which is not changed, and readable images; labels are needed only
                with `semi_supervised`.
            log: receives the progress of embedding.
            scratch: not used; features are cached.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, more classes than images, or no label with
                `semi_supervised`.
        """
        dataset = data.dataset
        k = dataset.classes.total
        y = torch.from_numpy(dataset.labels.copy())
        self.workload(len(dataset), k).check_clusters(dataset)
        if self.feature == "unprojected":
            x = normalize(data.backbone_features("head", log), dim=1).cpu()  # (N, E)
        else:
            x = data.image_features("head", log).cpu()
        found = self._clusters(x, y, k, seed % 2**32)  # the range of scikit-learn
        known = y[y >= 0].unique().tolist()
        record = FitRecord(
            trained_on=dataset.labelled.files,
            predictions={"predicted": nearest_centre(x, found.centres).tolist()},
            inertia=found.inertia,
        )
        space: Space = "pooled" if self.feature == "unprojected" else "projected"
        head = Linear(
            found.centres.to(data.device),
            centroid_bias(found.centres).to(data.device),
            1 / (self.temperature or UNCALIBRATED),
        )
        classes = dataset.classes.discovered(known)
        return Classifier(represent(data, space), head, classes, "kmeans", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        if self.semi_supervised:
            return Workload(needs_labels=True, clusters="further")
        return Workload(clusters=self.fit_on)

    def _clusters(
        self, x: Float[Tensor, "N E"], y: Int[Tensor, " N"], k: int, seed: int
    ) -> Clusters:
        """Clusters in the order of the classes."""
        if self.semi_supervised:
            if not bool((y >= 0).any()):
                raise RequestError("no image has a label: do not use --semi-supervised")
            return semi_supervised_kmeans(x, y, k, self.restarts or 100, seed=seed)
        rows = x[y < 0] if self.fit_on == "unlabelled" else x
        found = kmeans(rows, k, self.restarts or 10, seed)
        order = match_clusters(nearest_centre(x[y >= 0], found.centres), y[y >= 0], k)
        return found._replace(centres=found.centres[order])


def match_clusters(
    clusters: Int[Tensor, " l"], labels: Int[Tensor, " l"], k: int
) -> Int[Tensor, " K"]:
    """Cluster of each class, by the Hungarian method on the clusters of labelled images.

    The remaining clusters are assigned to the other classes in order.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((k, k), dtype=np.int64)  # class, cluster
    np.add.at(counts, (labels.numpy(), clusters.numpy()), 1)
    known = labels.unique().numpy()
    rows, columns = linear_sum_assignment(counts[known], maximize=True)
    order = np.full(k, -1)
    order[known[rows]] = columns
    order[order < 0] = np.setdiff1d(np.arange(k), columns)
    return torch.from_numpy(order)
