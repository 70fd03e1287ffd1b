"""GET-plus: the directions that tell known classes apart, in both spaces, then clusters of all.

The project's own, after GET (arXiv 2403.09974: two branches, one from texts), semi-supervised
k-means (GCD, arXiv 2201.02609) and linear discriminant analysis.   Needs: labels for some classes,
and how many others there are.

    K   = what was asked for, or the most that held-out labels allow (`estimators/num_classes.py`)
    u   = features of both spaces, sharpened by labels (`estimators/whitening.py`)
    z   = semi-supervised k-means of u                 labelled images stay in their class
    z_ik = softmax_k( g_k(u_i) + log pi_k )            then GaussianEM, g as in `gaussian_em.py`

Letters: N images, K classes, u (N, R). No step of gradient is taken and nothing of the model
changes.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import one_hot
from tyro.conf import arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, ImageDataset
from anyclass.estimators.gaussian_em import Linear, gaussians, log_frequencies
from anyclass.estimators.kmeans import centroid_bias, semi_supervised_kmeans
from anyclass.estimators.num_classes import estimate_num_classes
from anyclass.estimators.whitening import Whitening
from anyclass.features.extract import Embedding, embed, image_features, tower_features, with_own
from anyclass.log import Log
from anyclass.methods.gcd_common import labelled_classes


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class GetPlus:
    """Finds classes without a name in features sharpened by the labelled ones; in seconds."""

    discovers: ClassVar[bool] = True
    """It finds classes that have no name."""

    sharpening: Annotated[Whitening, arg(name="")] = Whitening()
    """What is done to the features."""
    dimensions: Annotated[int, Field(gt=0)] | None = None
    """q, principal components of each space; None: 2 K."""
    may_find_fewer: bool = True
    """Look for fewer classes than were asked for, where so many split labelled classes."""
    restarts: Annotated[int, Field(gt=0)] = 30
    """Starts of k-means, of which the best is kept (GCD's own script: 100)."""
    rounds: Annotated[int, Field(ge=0)] = 10
    """How often GaussianEM are fitted after k-means; 0: k-means alone."""
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of one number for all dimensions in their covariance."""
    prior: Annotated[float, Field(ge=0)] = 5.0
    """Images that each class has beforehand, in how frequent classes are."""

    @torch.no_grad()
    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled and unlabelled images.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable; `classes.total` of them are told apart, or fewer.
            log: gets the share of images that change their class, for each round.
            scratch: not needed; what takes time is cached.

        Raises:
            RequestError: no label, nothing to tell apart, or more classes than images.
        """
        known = labelled_classes(dataset)
        features = embed(clip, dataset, Embedding("head"), log)
        x = image_features(clip, features, "head")
        rows = with_own(x, tower_features(features).to(x))  # [x | h | 1]
        labels = torch.tensor(dataset.labels, device=x.device)
        k = self._number(rows, x.shape[1], labels, dataset.classes, log)
        space = self.sharpening.spaces(rows, x.shape[1], labels, self.dimensions or 2 * k)
        u = space.seen(rows)  # (N, R)
        seed = torch.initial_seed() % 2**32
        found = semi_supervised_kmeans(u.cpu(), labels.cpu(), k, self.restarts, seed=seed)
        linear = self._learn(u, labels, found.labels.to(x.device), k, log)
        weights = torch.cat([linear.v.T, linear.bias[:, None]], dim=1)  # of [u | 1]
        predicted = (u @ linear.v + linear.bias).argmax(1)
        counts = predicted.bincount(minlength=k)
        record = {
            "predicted": predicted.tolist(),
            "learned_from": dataset.labelled.files,
            "facts": {"used_classes": int((counts >= 5).sum()), "inertia": found.inertia},
        }
        about = ("get-plus", asdict(self), record)
        unknown = k - len(dataset.classes)
        classes = replace(dataset.classes, unknown=unknown).discovered(known)
        return Classifier(clip, None, classes, weights, *about, own=True, head=space)

    def _number(
        self,
        rows: Float[Tensor, "N E"],
        d: int,
        labels: Int[Tensor, " N"],
        classes: Classes,
        log: Log,
    ) -> int:
        """K: what was asked for, or the largest number that is possible."""
        asked, known = classes.total, len(classes.labelled)
        if not self.may_find_fewer or int(labels[labels >= 0].bincount().max()) < 2:
            return asked
        seed = torch.initial_seed() % 2**32
        found = estimate_num_classes(rows, d, labels, log, asked, self.sharpening, seed=seed)
        k = min(asked, max(found.range[1], known + 1, len(classes)))
        if k < asked:
            log(
                warning=f"{asked} classes were asked for; more than {k} would split labelled ones, "
                f"so {asked - k} fewer are told apart (--no-may-find-fewer: as many as asked)"
            )
        return k

    def _learn(
        self,
        u: Float[Tensor, "N R"],
        labels: Int[Tensor, " N"],
        clusters: Int[Tensor, " N"],
        k: int,
        log: Log,
    ) -> Linear:
        """GaussianEM of u, from clusters on: logits as a linear function of u."""
        middle, free = u.mean(0), (labels < 0)[:, None]
        h, given = u - middle, one_hot(labels.clamp_min(0), k).to(u)
        z = one_hot(clusters, k).to(u)
        linear = _nearest(h, z)
        for step in range(self.rounds):
            linear = gaussians(h, z, h.T @ h, self.shrink)
            log_pi = log_frequencies(z, free, self.prior, least=1e-6)
            linear = linear._replace(bias=linear.bias + log_pi)
            before = z.argmax(1)
            z = torch.where(free, (h @ linear.v + linear.bias).softmax(1), given)
            moved = float((z.argmax(1) != before).float().mean())
            log(stage="fit", done=step + 1, total=self.rounds, moved=moved)
        return linear.uncentred(middle)


def _nearest(h: Float[Tensor, "N R"], z: Float[Tensor, "N K"]) -> Linear:
    """Nearest mean, as k-means has it."""
    mu = torch.einsum("nk,nr,k->kr", z, h, 1 / z.sum(0).clamp_min(1))
    return Linear(mu.T.contiguous(), centroid_bias(mu))
