"""k-means of frozen features, the baseline of class discovery: plain, or with some labels.

Vaze et al., CVPR 2022, arXiv 2201.02609 (with labels).   Needs: how many classes there are.

    argmin sum_i |x_i - mu_c(i)|^2             labelled images stay in their class where they are
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
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.estimators.kmeans import (
    Clusters,
    centroid_bias,
    kmeans,
    nearest,
    semi_supervised_kmeans,
)
from anyclass.features.extract import Embedding, embed, image_features, pooled_features
from anyclass.log import Log


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class KMeans:
    """Groups images by frozen features alone; in seconds."""

    discovers: ClassVar[bool] = True
    """It finds classes that have no name."""

    semi_supervised: bool = False
    """Keep labelled images in their class and begin at the classes' means."""
    feature: Literal["projected", "unprojected"] = "projected"
    """Features shared with texts, or those before the projection."""
    fit_on: Literal["unlabelled", "all"] = "unlabelled"
    """Images that plain k-means groups; with `semi_supervised` all, always."""
    restarts: Annotated[int, Field(gt=0)] | None = None
    """The best of so many; None: 10, with `semi_supervised` 100 (the official codes)."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of probabilities, softmax(-|x - mu|^2 / 2 temperature)."""

    @torch.no_grad()
    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Group the images; labels name the groups.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable; labels are needed with `semi_supervised` alone.
            log: gets the progress of embedding.
            scratch: not needed; what takes time is cached.

        Raises:
            RequestError: fewer than two classes or more than images, or no image to group.
        """
        k, y = dataset.classes.total, torch.from_numpy(dataset.labels.copy())
        if k < 2:
            raise RequestError("a single class cannot be told from others; say --unknown 1 or more")
        features = embed(clip, dataset, Embedding("head"), log)
        seen = pooled_features if self.feature == "unprojected" else image_features
        x = seen(clip, features, "head").cpu()  # (N, E)
        found = self._clusters(x, y, k)
        known = y[y >= 0].unique().tolist()
        record = {
            "predicted": nearest(x, found.centres).tolist(),
            "inertia": found.inertia,
            "learned_from": dataset.labelled.files,
        }
        about = (dataset.classes.discovered(known), found.centres.to(clip.device))
        return Classifier(
            clip,
            None,
            *about,
            "kmeans",
            asdict(self),
            record,
            pooled=self.feature == "unprojected",
            bias=centroid_bias(found.centres).to(clip.device),
            scale=1 / self.temperature,
        )

    def _clusters(self, x: Float[Tensor, "N E"], y: Int[Tensor, " N"], k: int) -> Clusters:
        """Centres in the order of the classes."""
        seed = torch.initial_seed() % 2**32  # all that scikit-learn takes
        if self.semi_supervised:
            if not bool((y >= 0).any()):
                raise RequestError("no image has a label; leave --semi-supervised out")
            return semi_supervised_kmeans(x, y, k, self.restarts or 100, seed=seed)
        some = x[y < 0] if self.fit_on == "unlabelled" else x
        found = kmeans(some, k, self.restarts or 10, seed)
        order = named(nearest(x[y >= 0], found.centres), y[y >= 0], k)
        return found._replace(centres=found.centres[order])


def named(clusters: Int[Tensor, " l"], labels: Int[Tensor, " l"], k: int) -> Int[Tensor, " K"]:
    """For each class the cluster that becomes it: one to one, as labelled images agree best.

    Clusters that are left over become the other classes, in their order.
    """
    counts = np.zeros((k, k), dtype=np.int64)  # class, cluster
    np.add.at(counts, (labels.numpy(), clusters.numpy()), 1)
    known = labels.unique().numpy()
    rows, columns = linear_sum_assignment(counts[known], maximize=True)
    order = np.full(k, -1)
    order[known[rows]] = columns
    order[order < 0] = np.setdiff1d(np.arange(k), columns)
    return torch.from_numpy(order)
