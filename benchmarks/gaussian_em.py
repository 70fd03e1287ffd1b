"""Gaussian mixture with text priors: one Gaussian per class in the backbone features, fitted by EM.

The project's own, after TransCLIP (arXiv 2406.01837) and Gaussian discriminant analysis on CLIP
(arXiv 2402.04087). Version 0.1's `latteclip-plus` and `ship-plus` were built on it;
they are baselines of open-world here.

    z_ic = softmax_c( l_ic + w g_c(h_i) + s' log pi_c )      class probabilities of an image
    z_ic = 1 if c is its label, else 0                       for a labelled image
    g_c  = mu_c Sigma^-1 h - mu_c Sigma^-1 mu_c / 2          log density, up to a common term
    mu_c = sum_i z_ic h_i / sum_i z_ic
    Sigma = (1 - lambda) S + lambda tr(S) / H I              S: covariance within classes
    pi_c = (n_c + a) / (N' + a C),  n_c = sum z_ic           over the N' images without a label
    s = N / (N + b C),  s' = N' / (N' + b C)
    w = beta s spread(l) / spread(g)

Letters: N images, C classes, l (N, C) logits by class prompts, h (N, H) centred features. z starts
at softmax(l). g of an image is fitted on the other folds only, otherwise it would confirm its own
z.
"""

from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.functional import one_hot

from anyclass.estimators.linear import Linear
from anyclass.log import Log
from anyclass.rng import seeded_rng


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class GaussianEM:
    """Hyper-parameters of the Gaussian mixture with text priors."""

    rounds: Annotated[int, Field(ge=0)] = 2
    """EM rounds; 0 disables the Gaussians."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """beta, spread over classes of the Gaussian logits relative to the text logits."""
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.9
    """lambda, shrinkage of the covariance towards a multiple of the identity."""
    trust: Annotated[float, Field(ge=0)] = 10.0
    """b, images per class at which the Gaussian expert gets half its weight."""
    prior: Annotated[float, Field(ge=0)] = 5.0
    """a, pseudo-count of images per class in the class prior."""
    folds: Annotated[int, Field(gt=1)] = 5
    """Folds of the images; the Gaussians for an image are fitted on the other folds."""

    def learn(
        self,
        logits: Float[Tensor, "N C"],
        h: Float[Tensor, "N H"],
        labels: Int[Tensor, " N"],
        log: Log,
        seed: int = 0,
    ) -> Linear:
        """Fit w g + s' log pi, returned as a linear function of centred h after the last round.

        Args:
            logits: l, by class prompts.
            h: centred features.
            labels: -1 for unlabelled images.
            log: gets the share of images that leave their zero-shot class, for each round.
            seed: random seed of the folds.
        """
        n, c = logits.shape
        given = one_hot(labels.clamp_min(0), c).to(logits)
        free = (labels < 0)[:, None]
        unlabelled = int(free.sum())
        fold = torch.randperm(n, generator=seeded_rng(seed)) % self.folds
        parts = [(fold == k).nonzero()[:, 0] for k in range(self.folds)]
        scatters = torch.stack([h[part].T @ h[part] for part in parts])
        s = n / (n + self.trust * c)
        s_prior = unlabelled / max(1e-6, unlabelled + self.trust * c)
        z = torch.where(free, logits.softmax(1), given)
        w = torch.zeros(())
        linear = Linear(h.new_zeros(h.shape[1], c).T, torch.zeros_like(logits[0]))
        for step in range(self.rounds):
            g = torch.empty_like(logits)
            for part, scatter in zip(parts, scatters, strict=True):
                others = torch.ones(n, dtype=torch.bool, device=h.device)
                others[part] = False
                found = gaussians(h[others], z[others], scatters.sum(0) - scatter, self.shrink)
                g[part] = found.logits(h[part])
            if step == 0:
                w = self.weight * s * spread(logits) / spread(g).clamp_min(1e-6)
            log_pi = log_frequencies(z, free, self.prior, least=1e-4)
            everyone = gaussians(h, z, scatters.sum(0), self.shrink)
            linear = Linear(w * everyone.weights, w * everyone.intercept + s_prior * log_pi)
            z = torch.where(free, (logits + w * g + s_prior * log_pi).softmax(1), given)
            moved = float((z.argmax(1) != logits.argmax(1)).float().mean())
            log(stage="fit", done=step + 1, total=self.rounds, moved=moved)
        return linear


def gaussians(
    h: Float[Tensor, "n H"], z: Float[Tensor, "n C"], scatter: Float[Tensor, "H H"], shrink: float
) -> Linear:
    """g, log densities of Gaussians with one shared covariance, up to a common term.

    Args:
        h: features.
        z: class probabilities.
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
    return Linear(v.T, -torch.einsum("ch,hc->c", mu, v) / 2)


def log_frequencies(
    z: Float[Tensor, "n C"], free: Bool[Tensor, "n 1"], prior: float, least: float
) -> Float[Tensor, " C"]:
    """log pi, the log frequencies of the classes among the unlabelled images.

    Args:
        z: class probabilities.
        free: mask of the unlabelled images.
        prior: a, pseudo-count of images per class.
        least: smallest pi.
    """
    seen = torch.where(free, z, 0).sum(0) + prior
    return (seen / seen.sum().clamp_min(1e-6)).clamp_min(least).log()


def spread(logits: Float[Tensor, "n C"]) -> Float[Tensor, ""]:
    """Mean over images of the standard deviation over classes."""
    return logits.std(dim=1).mean()
