"""GET-plus: LDA whitening in two feature spaces, then semi-supervised k-means and EM.

The project's own, after GET (arXiv 2403.09974: two branches, one from texts), semi-supervised
k-means (GCD, arXiv 2201.02609) and linear discriminant analysis.   Needs: labels for some classes,
and the number of others.

    K    = the number asked for, at most that compatible with held-out labels (`num_classes.py`)
    u    = whitened features of both spaces (`estimators/whitening.py`)
    z    = semi-supervised k-means of u                labelled images keep their class
    z_ik = softmax_k( g_k(u_i) + log pi_k )            then EM, with g as in `gaussian_em.py`

Letters: N images, K classes, u (N, R). Nothing is trained by gradient.
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

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import WhitenedLinear
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.data import Classes
from anyclass.estimators.gaussian_em import gaussians, log_frequencies
from anyclass.estimators.kmeans import centroid_bias, semi_supervised_kmeans
from anyclass.estimators.linear import Linear
from anyclass.estimators.num_classes import estimate_num_classes
from anyclass.estimators.whitening import Whitening
from anyclass.features.cache import Embedding
from anyclass.features.extract import stack_features, tower_features
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods.gcd_common import labelled_classes
from anyclass.methods.workload import Workload


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class GetPlus:
    """Discovers classes in features whitened by the labelled classes, in seconds."""

    discovers: ClassVar[bool] = True
    """Whether the method discovers classes without a name."""

    sharpening: Annotated[Whitening, arg(name="")] = Whitening()
    """Whitening of the features."""
    dimensions: Annotated[int, Field(gt=0)] | None = None
    """q, principal components per feature space; None: 2 K."""
    may_find_fewer: bool = True
    """Discover fewer classes than asked for if that number would split labelled classes; disable it
    if the number is certain."""
    restarts: Annotated[int, Field(gt=0)] = 30
    """Restarts of k-means, of which the best is kept (GCD's script: 100)."""
    rounds: Annotated[int, Field(ge=0)] = 10
    """EM rounds after k-means; 0: only k-means."""
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Shrinkage of the covariance towards a multiple of the identity."""
    prior: Annotated[float, Field(ge=0)] = 5.0
    """Pseudo-count of images per class in the class prior."""

    @torch.no_grad()
    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled and unlabelled images.

        Args:
            data: the model, which is not changed, and readable images, to be divided into at
                most `classes.total` classes.
            log: receives the share of images that change their class, for each round.
            scratch: not used; features are cached.
            seed: random seed.

        Raises:
            RequestError: no label, fewer than two classes, or more classes than images.
        """
        clip = data.clip
        dataset = data.dataset
        seed = seed % 2**32  # the range of scikit-learn
        known = labelled_classes(dataset)
        x = data.image_features("head", log)
        hidden = data.embed(Embedding("head"), log)
        rows = stack_features(x, tower_features(hidden).to(x))  # [x | h | 1]
        labels = torch.tensor(dataset.labels, device=x.device)
        k = dataset.classes.total
        if self.may_find_fewer and not data.num_classes_estimated:
            k = self._num_classes(rows, x.shape[1], labels, dataset.classes, log, seed)
        space = self.sharpening.spaces(rows, x.shape[1], labels, self.dimensions or 2 * k)
        u = space.transform(rows)  # (N, R)
        found = semi_supervised_kmeans(u.cpu(), labels.cpu(), k, self.restarts, seed=seed)
        linear = self._em(u, labels, found.labels.to(x.device), k, log)
        weights = torch.cat([linear.weights, linear.intercept[:, None]], dim=1)  # of [u | 1]
        predicted = linear.logits(u).argmax(1)
        counts = predicted.bincount(minlength=k)
        record = FitRecord(
            trained_on=dataset.labelled.files,
            facts={"used_classes": int((counts >= 5).sum()), "inertia": found.inertia},
            predictions={"predicted": predicted.tolist()},
        )
        unknown = k - len(dataset.classes)
        classes = replace(dataset.classes, unknown=unknown).discovered(known)
        representation = Representation((clip,), space="both")
        head = WhitenedLinear(space, weights)
        return Classifier(representation, head, classes, "get-plus", asdict(self), record)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return Workload()

    def _num_classes(
        self,
        rows: Float[Tensor, "N E"],
        d: int,
        labels: Int[Tensor, " N"],
        classes: Classes,
        log: Log,
        seed: int,
    ) -> int:
        """K: the number asked for, or the largest that does not split labelled classes."""
        asked = classes.total
        known = len(classes.labelled)
        if int(labels[labels >= 0].bincount().max()) < 2:
            return asked
        found = estimate_num_classes(rows, d, labels, log, asked, self.sharpening, seed=seed)
        k = min(asked, max(found.range[1], known + 1, len(classes)))
        if k < asked:
            log(
                warning=f"{asked} classes were asked for; more than {k} would split labelled ones, "
                f"so {k} are used (--no-may-find-fewer: use {asked})"
            )
        return k

    def _em(
        self,
        u: Float[Tensor, "N R"],
        labels: Int[Tensor, " N"],
        clusters: Int[Tensor, " N"],
        k: int,
        log: Log,
    ) -> Linear:
        """Fit Gaussians of u by EM from the clusters; return logits as a linear function of u."""
        mean = u.mean(0)
        h = u - mean
        unlabelled = (labels < 0)[:, None]
        given = one_hot(labels.clamp_min(0), k).to(u)
        z = one_hot(clusters, k).to(u)
        linear = _nearest_mean(h, z)
        for step in range(self.rounds):
            linear = gaussians(h, z, h.T @ h, self.shrink)
            log_pi = log_frequencies(z, unlabelled, self.prior, least=1e-6)
            linear = replace(linear, bias=linear.intercept + log_pi)
            before = z.argmax(1)
            z = torch.where(unlabelled, linear.logits(h).softmax(1), given)
            moved = float((z.argmax(1) != before).float().mean())
            log(stage="fit", done=step + 1, total=self.rounds, moved=moved)
        return linear.uncentred(mean)


def _nearest_mean(h: Float[Tensor, "N R"], z: Float[Tensor, "N K"]) -> Linear:
    """Nearest-mean classifier, as in k-means."""
    mu = torch.einsum("nk,nr,k->kr", z, h, 1 / z.sum(0).clamp_min(1))
    return Linear(mu.T.contiguous().T, centroid_bias(mu))
