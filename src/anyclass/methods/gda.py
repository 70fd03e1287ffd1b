"""GDA: Gaussian discriminant analysis added to zero-shot logits, in closed form.

Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024, arXiv
2402.04087.   Needs: labels for some classes, a name for every class.

    logits_c = ( f . t_c + alpha / 100 ( f . P mu_c - mu_c . P mu_c / 2 ) ) / tau
    P        = D ( (n - 1) S + tr(S) I )^-1             Eq. 4: S, covariance within classes
    mu_c     = ( sum of rows_c + m t_c ) / (k + m)      named class: k nearest rows, m texts
    S_c      = sum over rows_c of (x - t_c) (x - t_c)^T / (k - 1)
    P_named  = mean_c D ( (k - 1) S_c + tr(S_c) I )^-1

Letters: n views of all labelled images, x (n, D) their unit features, C classes, f (D,) unit
features of an image, t (C, D) text features of the classes. The logits are linear in f. They are
the paper's where 1 / tau = 100, as in OpenAI's models.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from tyro.conf import Suppress, arg

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.record import FitRecord
from anyclass.classifier.representation import Representation
from anyclass.errors import RequestError
from anyclass.estimators.kmeans import class_means
from anyclass.estimators.linear import Linear
from anyclass.features.store import FeatureStore
from anyclass.features.text import PLAIN, Template, class_features
from anyclass.log import Log
from anyclass.methods.few_shot import (
    PUBLISHED_SCALE,
    FewShot,
    FewShotTask,
    fit_few_shot,
)
from anyclass.methods.info import MethodInfo, Situation
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.synthetic_features import SyntheticFeatures
from anyclass.methods.workload import Workload, refuse_one_class

ALPHAS = tuple(10.0**power for power in range(-4, 3))
"""Values of alpha in the search (released code)."""

TINY = 1e-12
"""Minimum scatter, if all rows are equal."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Gda:
    """Fits Gaussians with a shared covariance to labelled images in seconds, without training."""

    epochs: ClassVar[int] = 1
    """Number of views if `data.views` is 0; nothing is trained."""
    info: ClassVar[MethodInfo] = MethodInfo(title="GDA", situations=(Situation.NAMES_AND_LABELS,))
    """Facts for lists, planning and the report."""
    kind: Suppress[Literal["gda"]] = "gda"
    """Type of the method in saved files."""
    data: Annotated[FewShot, arg(name="")] = FewShot()
    """Labelled images and their augmented views, all of which are used."""
    template: Template = PLAIN
    """Class prompt; `{}` is the class name."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the Gaussian logits beside text logits of scale 100; at another scale it has the
    same effect (paper: selected on validation images; see `search`)."""
    precision: Annotated[Literal["ridge", "pinv"], arg(name="precision-matrix")] = "ridge"
    """P of labelled classes: Eq. 4 (ridge), or the pseudo-inverse of the mean class covariance
    (pinv; released code for base-to-new)."""
    neighbours: Annotated[int, Field(gt=0)] = 64
    """k, nearest labelled views used for a class without a labelled image (paper: 64)."""
    copies: Annotated[int, Field(ge=0)] = 16
    """m, copies of the text feature added to these views (released code: 16)."""
    share_precision: bool = True
    """Use P of the labelled classes for named ones too (paper: separate precision, as it never
    compares named classes with labelled ones)."""
    draws: Annotated[int, Field(gt=0)] = 64
    """Synthetic features averaged into mu of a named class (with SHIP only)."""
    search: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labelled images held out to select alpha; 0: no search."""

    def fit(
        self, data: FeatureStore, log: Log, scratch: Path | None = None, seed: int = 0
    ) -> Classifier:
        """Fit on labelled images; the other classes use the nearest of them.

        Args:
            data: the model, which is not changed, and readable images; only the labelled ones
                are used.
            log: receives the progress of embedding.
            scratch: not used; features are cached.
            seed: random seed.

        Raises:
            RequestError: fewer than two classes, no image with a label, or no class with two
                different views.
        """
        refuse_one_class(data.dataset.classes, "GDA")
        return fit_few_shot(self, data, log, scratch, seed)

    def workload(self, images: int, classes: int) -> Workload:
        """Estimate the cost of a fit with so many `images` and `classes`."""
        return self.data.workload(self.epochs)

    @torch.no_grad()
    def learn(self, task: FewShotTask, log: Log, checkpoint: Path | None = None) -> Classifier:
        """Fit on features.

        Args:
            task: features of labelled images, and the classes.
            log: receives a warning if no image can be held out.
            checkpoint: not used.

        Raises:
            RequestError: no class has two different views.
        """
        clip = task.clip
        s = clip.logit_scale
        t = class_features(clip, task.classes.all_prompts, [self.template])
        training, held_out = task.labelled.split(self.search, task.seed)
        g = self._gaussians(training, t, task.synthetic)
        alpha = self.alpha
        if self.search and len(held_out.c):
            alpha = search_alpha(g, t, held_out, training.classes)
        elif self.search:
            log(warning="too few images per class to hold any out: alpha is not searched")
        representation = Representation((clip,), space="both")  # rows [f | backbone features | 1]
        weights = t.new_zeros(len(t), representation.width)
        weights[:, : t.shape[1]] = t + alpha * g.weights / PUBLISHED_SCALE
        weights[:, -1] = alpha * g.intercept / PUBLISHED_SCALE
        head = Linear(weights, scale=s.detach())
        record = FitRecord(trained_on=task.labelled.files, metrics={"alpha": alpha})
        return Classifier(representation, head, task.classes, "gda", asdict(self), record)

    def _gaussians(
        self,
        labelled: LabelledFeatures,
        t: Float[Tensor, "C D"],
        synthetic: SyntheticFeatures | None,
    ) -> Linear:
        """Linear log densities of all classes."""
        x = labelled.x.flatten(0, 1)
        c = labelled.c.repeat_interleave(labelled.x.shape[1]).to(x.device)
        p = {"ridge": ridge, "pinv": pseudo_inverse}[self.precision](x, c)
        present = labelled.classes.to(x.device)
        mu = torch.zeros_like(t)
        mu[present] = class_means(x, c, len(t))[present]
        g = discriminant(mu, p)
        seen = set(labelled.c.tolist())
        named = [i for i in range(len(t)) if i not in seen]
        if not named:
            return g
        if synthetic is not None:
            x_synthetic, c_synthetic = synthetic.per_class(self.draws)
            mu_named = class_means(x_synthetic.to(x), c_synthetic.to(x.device), len(t))
            g_named = discriminant(mu_named, p)
        else:
            p_named = p if self.share_precision else torch.zeros_like(p)
            for i in named:
                near = neighbourhood(x, t[i], self.neighbours, self.copies)
                mu[i] = near.mu
                if not self.share_precision:
                    p_named += near.precision / len(named)
            g_named = discriminant(mu, p_named)
        weights = g.weights.clone()
        bias = g.intercept.clone()
        weights[named] = g_named.weights[named]
        bias[named] = g_named.intercept[named]
        return Linear(weights, bias)


class Neighbourhood(NamedTuple):
    """Mean of a class without a labelled image, and the rows nearest to its text feature."""

    mu: Float[Tensor, " D"]
    z: Float[Tensor, "k D"]
    """The k nearest rows, minus the text feature."""

    @property
    def precision(self) -> Float[Tensor, "D D"]:
        """P of the class, computed when it is asked for."""
        z = self.z.double()
        return _ridged(z.T @ z, len(z)).to(self.z)


def discriminant(mu: Float[Tensor, "C D"], p: Float[Tensor, "D D"]) -> Linear:
    """Log densities of Gaussians with precision P, up to a common term."""
    v = mu @ p
    return Linear(v, -torch.einsum("cd,cd->c", mu, v) / 2)


def ridge(x: Float[Tensor, "n D"], c: Int[Tensor, " n"]) -> Float[Tensor, "D D"]:
    """P of the covariance within classes, with ridge regularisation."""
    z = _centred(x, c)
    return _ridged(z.T @ z, len(z)).to(x)  # Eq. 4


def pseudo_inverse(x: Float[Tensor, "n D"], c: Int[Tensor, " n"]) -> Float[Tensor, "D D"]:
    """P as the pseudo-inverse of the mean of the unbiased class covariances."""
    z = _centred(x, c)
    count = c.bincount()
    weight = (1 / (count - 1).clamp_min(1).to(z))[c]  # rows of a single view are 0
    covariance = (weight[:, None] * z).T @ z / (count > 1).sum()
    p: Tensor = torch.linalg.pinv(covariance, hermitian=True)
    return p.to(x)


def neighbourhood(
    x: Float[Tensor, "n D"], t: Float[Tensor, " D"], neighbours: int, copies: int
) -> Neighbourhood:
    """Mean and precision of the rows nearest to text feature t, and copies of t in the mean.

    Args:
        x: unit rows.
        t: unit text feature.
        neighbours: k, at most n.
        copies: m.
    """
    near = x[(x @ t).topk(min(neighbours, len(x))).indices]
    mu = (near.sum(0) + copies * t) / (len(near) + copies)
    return Neighbourhood(mu, near - t)


@torch.no_grad()
def search_alpha(
    g: Linear, texts: Float[Tensor, "C D"], held_out: LabelledFeatures, columns: Int[Tensor, " M"]
) -> float:
    """The smallest alpha with the best held-out accuracy.

    Args:
        g: log densities, fitted without the held-out images.
        texts: unit text features of the classes.
        held_out: features of held-out labelled images.
        columns: labelled classes; only these are considered.
    """
    f = held_out.means
    y = torch.searchsorted(columns, held_out.c).to(held_out.x.device)
    text_logits = PUBLISHED_SCALE * f @ texts[columns].T
    gaussian_logits = g.only(columns).logits(f)
    correct = [
        int(((text_logits + alpha * gaussian_logits).argmax(1) == y).sum()) for alpha in ALPHAS
    ]
    return ALPHAS[correct.index(max(correct))]


def _centred(x: Float[Tensor, "n D"], c: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
    """Rows minus the mean of their class, in double precision."""
    rows = x.double()
    z = rows - class_means(rows, c, int(c.max()) + 1)[c]
    if not z.abs().max() > 1e-6:
        raise RequestError(
            "no class has two different views: GDA needs a second image of some class, or more "
            "augmented views (--views)"
        )
    return z


def _ridged(scatter: Float[Tensor, "D D"], rows: int) -> Float[Tensor, "D D"]:
    """D ( (n - 1) S + tr(S) I )^-1 for the scatter (n - 1) S."""
    d = len(scatter)
    level = scatter.trace().clamp_min(TINY) / max(1, rows - 1)
    p: Tensor = d * torch.linalg.inv(scatter + level * torch.eye(d).to(scatter))
    return p
