"""GET-plus: the directions that tell known classes apart, in both spaces, then clusters of all.

The project's own, after GET (arXiv 2403.09974: two branches, one from texts), semi-supervised
k-means (GCD, arXiv 2201.02609) and linear discriminant analysis.   Needs: labels for some classes,
and how many others there are.

    a   = unit( (h - mean) Sigma^-1/2 )                Sigma: covariance within labelled classes
    r_h = unit( first q principal components of a )    what still varies varies between classes
    r_x                                                the same of x, the space shared with texts
    u   = unit( [r_h | beta r_x] )
    z   = semi-supervised k-means of u                 labelled pictures stay in their class
    z_ik = softmax_k( g_k(u_i) + log pi_k )            then Gaussians, g as in `gaussians.py`

Letters: N pictures, K classes, D dimensions, x (N, D) unit features, h (N, H) features of the image
tower before its projection, u (N, R). No step of gradient is taken and nothing of the model
changes.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from anyclass.backbone import Backbone
from anyclass.classifier import Classifier
from anyclass.clusters import offsets, semi_supervised_kmeans
from anyclass.data import Photos
from anyclass.discovery import labelled_classes
from anyclass.features import Embedding, embed, image_features, tower_features, with_own
from anyclass.gaussians import Linear, gaussians, log_frequencies
from anyclass.heads import Spaces
from anyclass.train import Log


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class GetPlus:
    """Finds classes without a name in features sharpened by the labelled ones; in seconds."""

    discovers: ClassVar[bool] = True
    """It finds classes that have no name."""

    sharpen: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the covariance within labelled classes that is undone; the rest is one number for
    all dimensions."""
    dimensions: Annotated[int, Field(gt=0)] | None = None
    """q, principal components of each space; None: 2 K."""
    shared: Annotated[float, Field(ge=0)] = 0.5
    """beta, weight of the space shared with texts beside the tower's own."""
    restarts: Annotated[int, Field(gt=0)] = 30
    """Starts of k-means, of which the best is kept (GCD's own script: 100)."""
    rounds: Annotated[int, Field(ge=0)] = 10
    """How often Gaussians are fitted after k-means; 0: k-means alone."""
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of one number for all dimensions in their covariance."""
    prior: Annotated[float, Field(ge=0)] = 5.0
    """Pictures that each class has beforehand, in how frequent classes are."""

    @torch.no_grad()
    def fit(
        self, clip: Backbone, photos: Photos, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled and unlabelled pictures.

        Args:
            clip: the model; it is left as it is.
            photos: pictures, all readable; `classes.total` of them are told apart.
            log: gets the share of pictures that change their class, for each round.
            scratch: not needed; what takes time is cached.

        Raises:
            RequestError: no label, nothing to tell apart, or more classes than pictures.
        """
        known, k = labelled_classes(photos), photos.classes.total
        shown = embed(clip, photos, Embedding("head"), log)
        x = image_features(clip, shown, "head")
        rows = with_own(x, tower_features(shown).to(x))  # [x | h | 1]
        labels = torch.tensor(photos.labels, device=x.device)
        space = spaces(rows, x.shape[1], labels, self.dimensions or 2 * k, self)
        u = space.seen(rows)  # (N, R)
        seed = torch.initial_seed() % 2**32
        found = semi_supervised_kmeans(u.cpu(), labels.cpu(), k, self.restarts, seed=seed)
        linear = self._learn(u, labels, found.labels.to(x.device), k, log)
        weights = torch.cat([linear.v.T, linear.bias[:, None]], dim=1)  # of [u | 1]
        predicted = (u @ linear.v + linear.bias).argmax(1)
        counts = predicted.bincount(minlength=k)
        record = {
            "predicted": predicted.tolist(),
            "learned_from": photos.labelled.files,
            "facts": {"used_classes": int((counts >= 5).sum()), "inertia": found.inertia},
        }
        about = ("get-plus", asdict(self), record)
        classes = photos.classes.discovered(known)
        return Classifier(clip, None, classes, weights, *about, own=True, head=space)

    def _learn(
        self,
        u: Float[Tensor, "N R"],
        labels: Int[Tensor, " N"],
        clusters: Int[Tensor, " N"],
        k: int,
        log: Log,
    ) -> Linear:
        """Gaussians of u, from clusters on: logits as a linear function of u."""
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


def spaces(
    rows: Float[Tensor, "N E"], d: int, labels: Int[Tensor, " N"], q: int, how: GetPlus
) -> Spaces:
    """Both spaces, sharpened and reduced.

    Args:
        rows: [x | h | 1].
        d: how many columns are x.
        labels: -1 where there is none.
        q: principal components of each space.
        how: the fields `sharpen` and `shared`.
    """
    x, h = rows[:, :d], rows[:, d:-1]
    of_x, of_h = (sharpened(some, labels, q, how.sharpen) for some in (x, h))
    return Spaces(*of_x, *of_h, share=how.shared)


def sharpened(
    h: Float[Tensor, "N H"], labels: Int[Tensor, " N"], q: int, sharpen: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What whitens features and reduces them.

    Returns:
        centre (H), Sigma^-1/2 (H, H), and of the unit vectors they make: centre (H) and the first
        q principal axes (H, q).
    """
    centre, known = h.mean(0), labels >= 0
    z = one_hot(labels[known]).to(h)
    means = torch.einsum("nk,nh,k->kh", z, h[known], 1 / z.sum(0).clamp_min(1))
    rest = h[known] - z @ means
    within = rest.T @ rest / max(1, len(rest))
    width = len(within)
    level = (within.trace() / width).clamp_min(1e-12)
    sigma = sharpen * within + (1 - sharpen) * level * torch.eye(width).to(h)
    values, vectors = torch.linalg.eigh(sigma)
    whiten = vectors * values.clamp_min(1e-12).rsqrt()
    a = normalize((h - centre) @ whiten, dim=1)
    middle = a.mean(0)
    axes = torch.linalg.eigh((a - middle).T @ (a - middle)).eigenvectors.flip(1)
    return centre, whiten, middle, axes[:, : min(q, width, len(h) - 1)].contiguous()


def _nearest(h: Float[Tensor, "N R"], z: Float[Tensor, "N K"]) -> Linear:
    """Nearest mean, as k-means has it."""
    mu = torch.einsum("nk,nr,k->kr", z, h, 1 / z.sum(0).clamp_min(1))
    return Linear(mu.T.contiguous(), offsets(mu))
