"""GDA: a Gaussian for each class beside its text, in closed form; nothing is trained.

Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024, arXiv
2402.04087.   Needs: labels for some classes, a name for every class.

    logits_c = f . t_c / tau + alpha ( f . P mu_c - mu_c . P mu_c / 2 )
    P        = D ( (n - 1) S + tr(S) I )^-1             Eq. 4: S, covariance within classes
    mu_c     = ( sum of rows_c + m t_c ) / (k + m)      a named class: its k nearest rows, m texts
    S_c      = sum over rows_c of (x - t_c) (x - t_c)^T / (k - 1)
    P_named  = mean_c D ( (k - 1) S_c + tr(S_c) I )^-1

Letters: n views of all labelled images, x (n, D) their unit features, C classes, f (D,) unit
features of an image, t (C, D) texts of the classes. All of it is linear in f.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from tyro.conf import Suppress, arg

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.extract import with_own
from anyclass.features.text import PLAIN, Template, class_features
from anyclass.log import Log
from anyclass.methods.few_shot import (
    FewShot,
    LabelledFeatures,
    Over,
    SyntheticFeatures,
    refuse_one_class,
)

ALPHAS = tuple(10.0**power for power in range(-4, 3))
"""Weights that are tried (released code)."""

TINY = 1e-12
"""Least scatter, where all rows are one."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Gda:
    """Fits one Gaussian per class to labelled images, with one covariance; in seconds."""

    kind: Suppress[Literal["gda"]] = "gda"
    """Tells it apart from other methods in a file."""
    data: Annotated[FewShot, arg(name="")] = FewShot()
    """Labelled images that are learned from, and their views, all of which count."""
    template: Template = PLAIN
    """Class text; `{}` is the class."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the GaussianEM (paper: chosen on validation images)."""
    precision: Literal["ridge", "pinv"] = "ridge"
    """P of labelled classes: Eq. 4, or the pseudo-inverse of the mean over classes of their
    covariance (released code, base-to-new)."""
    neighbours: Annotated[int, Field(gt=0)] = 64
    """k, rows that stand for a class without a labelled image (paper: 64)."""
    copies: Annotated[int, Field(ge=0)] = 16
    """m, how often its text counts among them (released code: 16)."""
    share_precision: bool = False
    """Whether named classes take P of the labelled ones (paper: one of their own)."""
    draws: Annotated[int, Field(gt=0)] = 64
    """Made features whose mean is mu of a named class, where features are made."""
    search: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labelled images that is held out and chooses alpha; 0: none."""

    def fit(
        self, clip: Backbone, dataset: ImageDataset, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from labelled images; other classes borrow from the nearest of them.

        Args:
            clip: the model; it is left as it is.
            dataset: images, all readable; those without a label are not looked at.
            log: gets the progress of embedding.
            scratch: not needed; what takes time is cached.

        Raises:
            RequestError: fewer than two classes, no image with a label, or no two views of any
                class that differ.
        """
        refuse_one_class(dataset.classes, "GDA")
        labelled = self.data.show(clip, dataset, log, epochs=1)
        return self.learn(clip, labelled, dataset.classes, log)

    @torch.no_grad()
    def learn(
        self,
        clip: Backbone,
        labelled: LabelledFeatures,
        classes: Classes,
        log: Log,
        synthetic: SyntheticFeatures | None = None,
        over: Over = "labelled",
        keep: Path | None = None,
    ) -> Classifier:
        """Learn from features.

        Args:
            clip: the model; it is left as it is.
            labelled: labelled images.
            classes: all classes.
            log: gets a warning where nothing can be held out.
            synthetic: features of named classes; their means replace those of neighbours.
            over: not needed: no class stands against another while fitting.
            keep: not needed.

        Raises:
            RequestError: no two views of any class differ.
        """
        t, s = class_features(clip, classes.prompts, [self.template]), clip.logit_scale
        learned, held = labelled.split(self.search, torch.initial_seed())
        g = self._gaussians(learned, t, synthetic)
        alpha = self.alpha
        if self.search and len(held.c):
            alpha = search(g, s * t, held, learned.classes)
        elif self.search:
            log(warning="no class has images enough to hold one out: alpha stays")
        rows = with_own(clip.fingerprint(), clip.trunk(clip.synthetic(), "head"))
        weights = t.new_zeros(len(t), rows.shape[1])  # [f | the tower's own | 1]
        weights[:, : t.shape[1]] = t + alpha * g.v / s
        weights[:, -1] = alpha * g.bias / s
        record = {"facts": {"alpha": alpha}, "learned_from": labelled.files}
        about = ("gda", asdict(self), record)
        return Classifier(clip, None, classes, weights, *about, own=True)

    def _gaussians(
        self,
        labelled: LabelledFeatures,
        t: Float[Tensor, "C D"],
        synthetic: SyntheticFeatures | None,
    ) -> "Linear":
        """Log densities of all classes."""
        x = labelled.x.flatten(0, 1)
        c = labelled.c.repeat_interleave(labelled.x.shape[1]).to(x.device)
        p = {"ridge": ridge, "pinv": pseudo_inverse}[self.precision](x, c)
        present = labelled.classes.to(x.device)
        mu = torch.zeros_like(t)
        mu[present] = class_means(x, c, len(t))[present]
        g = discriminant(mu, p)
        named = [i for i in range(len(t)) if i not in set(labelled.c.tolist())]
        if not named:
            return g
        if synthetic is not None:
            x_synthetic, c_synthetic = synthetic.each(self.draws)
            theirs = discriminant(
                class_means(x_synthetic.to(x), c_synthetic.to(x.device), len(t)), p
            )
        else:
            near = [neighbourhood(x, t[i], self.neighbours, self.copies) for i in named]
            p_named = torch.stack([one.precision for one in near]).mean(0)
            p_named = p if self.share_precision else p_named
            mu[named] = torch.stack([one.mu for one in near])
            theirs = discriminant(mu, p_named)
        g.v[named], g.bias[named] = theirs.v[named], theirs.bias[named]
        return g


class Linear(NamedTuple):
    """Logits of C classes, f . v_c + bias_c."""

    v: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]


class Near(NamedTuple):
    """What stands for a class without a labelled image."""

    mu: Float[Tensor, " D"]
    precision: Float[Tensor, "D D"]


def discriminant(mu: Float[Tensor, "C D"], p: Float[Tensor, "D D"]) -> Linear:
    """Log densities of GaussianEM with precision P, up to what all classes share."""
    v = mu @ p
    return Linear(v, -torch.einsum("cd,cd->c", mu, v) / 2)


def class_means(
    x: Float[Tensor, "n D"], c: Int[Tensor, " n"], classes: int
) -> Float[Tensor, "C D"]:
    """Mean row of each class; zero where it has none."""
    total = x.new_zeros(classes, x.shape[1]).index_add(0, c, x)
    return total / c.bincount(minlength=classes).clamp_min(1)[:, None]


def ridge(x: Float[Tensor, "n D"], c: Int[Tensor, " n"]) -> Float[Tensor, "D D"]:
    """P of one covariance within classes."""
    z = _centred(x, c)
    return _ridged(z.T @ z, len(z)).to(x)  # Eq. 4


def pseudo_inverse(x: Float[Tensor, "n D"], c: Int[Tensor, " n"]) -> Float[Tensor, "D D"]:
    """P as pseudo-inverse of the mean over classes of their unbiased covariance."""
    z, count = _centred(x, c), c.bincount()
    several = (count > 1).nonzero()[:, 0].tolist()
    covariances = [z[c == i].T @ z[c == i] / (count[i] - 1) for i in several]
    p: Tensor = torch.linalg.pinv(torch.stack(covariances).mean(0), hermitian=True)
    return p.to(x)


def neighbourhood(
    x: Float[Tensor, "n D"], t: Float[Tensor, " D"], neighbours: int, copies: int
) -> Near:
    """Mean and precision of a class with text t: its nearest rows, and copies of t.

    Args:
        x: unit rows.
        t: unit text.
        neighbours: k; n where there are fewer rows.
        copies: m.
    """
    near = x[(x @ t).topk(min(neighbours, len(x))).indices]
    z = (near - t).double()
    mu = (near.sum(0) + copies * t) / (len(near) + copies)
    return Near(mu, _ridged(z.T @ z, len(near)).to(x))


@torch.no_grad()
def search(
    g: Linear, texts: Float[Tensor, "C D"], held: LabelledFeatures, columns: Int[Tensor, " M"]
) -> float:
    """The smallest alpha that labels most held-out images right.

    Args:
        g: log densities, of which none of them knows.
        texts: class texts over tau.
        held: labelled images, held out.
        columns: labelled classes, the only ones that are told apart here.
    """
    f, y = held.means, torch.searchsorted(columns, held.c).to(held.x.device)
    said, seen = f @ texts[columns].T, f @ g.v[columns].T + g.bias[columns]
    right = [int(((said + alpha * seen).argmax(1) == y).sum()) for alpha in ALPHAS]
    return ALPHAS[right.index(max(right))]


def _centred(x: Float[Tensor, "n D"], c: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
    """Rows minus their class's mean, in double precision."""
    rows = x.double()
    z = rows - class_means(rows, c, int(c.max()) + 1)[c]
    if not z.abs().max() > 1e-6:
        raise RequestError(
            "no two views of any class differ: GDA needs a second image of some class, or views"
        )
    return z


def _ridged(scatter: Float[Tensor, "D D"], rows: int) -> Float[Tensor, "D D"]:
    """D ( (n - 1) S + tr(S) I )^-1 of a scatter (n - 1) S."""
    d = len(scatter)
    level = scatter.trace().clamp_min(TINY) / max(1, rows - 1)
    p: Tensor = d * torch.linalg.inv(scatter + level * torch.eye(d).to(scatter))
    return p
