"""A Gaussian per class in the image tower's own features, beside what class texts say.

The project's own, after TransCLIP (arXiv 2406.01837) and Gaussian discriminant analysis on CLIP
(arXiv 2402.04087); `latteclip-plus` and `ship-plus` are made of it.

    z_ic = softmax_c( l_ic + w g_c(h_i) + s' log pi_c )      classes of an image, softly
    z_ic = 1 if c is its label, else 0                       where it has one
    g_c  = mu_c Sigma^-1 h - mu_c Sigma^-1 mu_c / 2          log density, up to what classes share
    mu_c = sum_i z_ic h_i / sum_i z_ic
    Sigma = (1 - lambda) S + lambda tr(S) / H I              S: covariance within classes
    pi_c = (n_c + a) / (N' + a C),  n_c = sum z_ic           over the N' images without a label
    s = N / (N + b C),  s' = N' / (N' + b C)
    w = beta s spread(l) / spread(g)

Letters: N images, C classes, l (N, C) logits of class texts, h (N, H) centred features. z starts
at softmax(l). g of an image comes from the other folds' images alone, or it would confirm what
it was told.
"""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import one_hot

from anyclass.log import Log
from anyclass.rng import seeded_rng


class Linear(NamedTuple):
    """Logits of C classes, h v + bias."""

    v: Float[Tensor, "H C"]
    bias: Float[Tensor, " C"]

    def uncentred(self, middle: Float[Tensor, " H"]) -> "Linear":
        """The same of h as it comes, where so far `middle` was taken from it."""
        return self._replace(bias=self.bias - middle @ self.v)

    def beside(self, p: Float[Tensor, "C D"], scale: Float[Tensor, ""]) -> Float[Tensor, "C R"]:
        """Rows whose products with [x | h | 1], times the scale, add these logits to those of p."""
        return torch.cat([p, self.v.T / scale, self.bias[:, None] / scale], dim=1)


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class GaussianEM:
    """How GaussianEM and class texts are brought to agree."""

    rounds: Annotated[int, Field(ge=0)] = 2
    """How often GaussianEM are fitted; 0: not at all."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """beta, spread of the GaussianEM' logits over classes against that of the class texts'."""
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.9
    """lambda, share of one number for all dimensions in the covariance."""
    trust: Annotated[float, Field(ge=0)] = 10.0
    """b, images per class at which the GaussianEM count half."""
    prior: Annotated[float, Field(ge=0)] = 5.0
    """a, images that each class has beforehand."""
    folds: Annotated[int, Field(gt=1)] = 5
    """Parts of the folder; an image is judged by GaussianEM of the other parts."""

    def learn(
        self,
        logits: Float[Tensor, "N C"],
        h: Float[Tensor, "N H"],
        labels: Int[Tensor, " N"],
        log: Log,
    ) -> Linear:
        """The fit: w g + s' log pi as a linear function of centred h, after the last round.

        Args:
            logits: l, what class texts say.
            h: centred features.
            labels: -1 where there is none.
            log: gets the share of images that leave their zero-shot class, for each round.
        """
        n, c = logits.shape
        given, free = one_hot(labels.clamp_min(0), c).to(logits), (labels < 0)[:, None]
        unlabelled = int(free.sum())
        fold = torch.randperm(n, generator=seeded_rng(torch.initial_seed())) % self.folds
        parts = [(fold == k).nonzero()[:, 0] for k in range(self.folds)]
        scatters = torch.stack([h[part].T @ h[part] for part in parts])
        s, s_prior = n / (n + self.trust * c), unlabelled / max(1e-6, unlabelled + self.trust * c)
        z, w = torch.where(free, logits.softmax(1), given), torch.zeros(())
        linear = Linear(h.new_zeros(h.shape[1], c), torch.zeros_like(logits[0]))
        for step in range(self.rounds):
            g = torch.empty_like(logits)
            for part, scatter in zip(parts, scatters, strict=True):
                others = torch.ones(n, dtype=torch.bool, device=h.device)
                others[part] = False
                found = gaussians(h[others], z[others], scatters.sum(0) - scatter, self.shrink)
                g[part] = h[part] @ found.v + found.bias
            if step == 0:
                w = self.weight * s * spread(logits) / spread(g).clamp_min(1e-6)
            log_pi = log_frequencies(z, free, self.prior, least=1e-4)
            everyone = gaussians(h, z, scatters.sum(0), self.shrink)
            linear = Linear(w * everyone.v, w * everyone.bias + s_prior * log_pi)
            z = torch.where(free, (logits + w * g + s_prior * log_pi).softmax(1), given)
            moved = float((z.argmax(1) != logits.argmax(1)).float().mean())
            log(stage="fit", done=step + 1, total=self.rounds, moved=moved)
        return linear


def gaussians(
    h: Float[Tensor, "n H"], z: Float[Tensor, "n C"], scatter: Float[Tensor, "H H"], shrink: float
) -> Linear:
    """g, the log densities of GaussianEM with one covariance, up to what all classes share.

    Args:
        h: features.
        z: how much each belongs to each class.
        scatter: h^T h.
        shrink: lambda.
    """
    n = z.sum(0)
    mu = torch.einsum("nc,nh,c->ch", z, h, 1 / n.clamp_min(1e-6))
    within = (scatter - torch.einsum("c,ch,ck->hk", n, mu, mu)) / max(1, len(h))  # S
    level = within.trace() / len(within)
    ridge = shrink * level + 1e-6 * level.clamp_min(1e-6)
    sigma = (1 - shrink) * within + ridge * torch.eye(len(within), device=h.device)
    v = torch.linalg.solve(sigma, mu.T)
    return Linear(v, -torch.einsum("ch,hc->c", mu, v) / 2)


def log_frequencies(
    z: Float[Tensor, "n C"], free: Bool[Tensor, "n 1"], prior: float, least: float
) -> Float[Tensor, " C"]:
    """The log of pi: how often classes occur among the free images.

    Args:
        z: how much each image belongs to each class.
        free: which images have no label.
        prior: a, images that each class has beforehand.
        least: smallest pi.
    """
    seen = torch.where(free, z, 0).sum(0) + prior
    return (seen / seen.sum().clamp_min(1e-6)).clamp_min(least).log()


def spread(logits: Float[Tensor, "n C"]) -> Float[Tensor, ""]:
    """Mean over images of the deviation over classes."""
    return logits.std(dim=1).mean()
