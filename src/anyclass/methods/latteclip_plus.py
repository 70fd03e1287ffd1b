"""LatteCLIP-plus: class names and what the image tower sees by itself, brought to agree.

The project's own, after LatteCLIP (arXiv 2410.08211), TransCLIP (arXiv 2406.01837) and Gaussian
discriminant analysis on CLIP (arXiv 2402.04087).   Needs: a name for every class, no label at all.

    l_ic = x_i . p_c / tau                                   what class texts say of a picture
    z_ic = softmax_c( l_ic + w g_c(h_i) + s log pi_c )       its classes, softly
    g_c  = mu_c Sigma^-1 h - mu_c Sigma^-1 mu_c / 2          log density, up to what classes share
    mu_c = sum_i z_ic h_i / n_c,  n_c = sum_i z_ic
    Sigma = (1 - lambda) S + lambda tr(S) / H I              S: covariance within classes
    pi_c = (n_c + a) / (N + a C)
    s    = N / (N + b C),   w = beta s spread(logits) / spread(g)

Letters: N pictures, C classes, D dimensions, x (N, D) unit features, h (N, H) features of the image
tower before its projection, centred, p (C, D) class texts. z starts at softmax(l). g of a picture
comes from the other folds' pictures alone, or it would confirm what it was told. No step of
gradient is taken and nothing of the model changes.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.captions import Answers
from anyclass.classifier import Classifier
from anyclass.data import Photos
from anyclass.describe import AnyDescriber, Request, Scene, Vocabulary
from anyclass.errors import RequestError
from anyclass.features import Embedding, embed, image_features, tower_features
from anyclass.priors import fixed_point, sinkhorn
from anyclass.templates import PLAIN, Template, class_features, domain
from anyclass.train import Log, generator


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class LatteClipPlus:
    """Fits a Gaussian per class to unlabelled pictures whose class names are known; in seconds."""

    template: Template = PLAIN
    """Class text; `{}` is the class."""
    correction: Literal["none", "sinkhorn", "fixed_point"] = "none"
    """Whether classes that zero-shot guesses too often are first taken back, and by what rule."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Of Sinkhorn, 0: all classes are equally frequent; 1: as frequent as they are guessed."""
    rounds: Annotated[int, Field(ge=0)] = 2
    """How often Gaussians are fitted; 0: zero-shot."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """beta, spread of the Gaussians' logits over classes against that of the class texts'."""
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.9
    """lambda, share of one number for all dimensions in the covariance."""
    trust: Annotated[float, Field(ge=0)] = 10.0
    """b, pictures per class at which the Gaussians count half."""
    prior: Annotated[float, Field(ge=0)] = 5.0
    """a, pictures that each class has beforehand."""
    folds: Annotated[int, Field(gt=1)] = 5
    """Parts of the folder; a picture is judged by Gaussians of the other parts."""
    descriptions: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a picture's description in what texts say of it while fitting; 0: none is asked."""
    describer: AnyDescriber = Vocabulary()
    """Who writes the descriptions."""
    domain: str = "object"
    """What the pictures show, for the describer: a noun, or one of LatteCLIP's sets."""
    plural: str = ""
    """Of a noun in `domain` that does not take an s."""

    @torch.no_grad()
    def fit(
        self, clip: Backbone, photos: Photos, log: Log, scratch: Path | None = None
    ) -> Classifier:
        """Learn from the pictures; their labels are never read.

        Args:
            clip: the model; it is left as it is.
            photos: pictures, all readable, and the names of two classes or more.
            log: gets the share of pictures that leave their zero-shot class, for each round.
            scratch: not needed; what takes time is cached.

        Raises:
            RequestError: fewer than two classes.
        """
        if len(photos.classes) < 2:
            raise RequestError(
                "LatteCLIP-plus tells classes apart: it needs two names or more (--classes FILE)"
            )
        shown = embed(clip, photos, Embedding("head"), log)
        x = image_features(clip, shown, "head")  # (N, D)
        h = tower_features(shown).to(x)  # (N, H)
        p, scale = class_features(clip, photos.classes.prompts, [self.template]), clip.logit_scale
        said, texts = self._said(Scene(photos, clip, x.cpu()), log)
        names_say = scale * x @ p.T  # l (N, C)
        share = self.descriptions * (said != 0).any(1, keepdim=True)
        logits = (1 - share) * names_say + share * (scale * said @ p.T)
        middle, taken_back = h.mean(0), self._taken_back(logits)
        learned = self._learn(logits + taken_back, h - middle, log)
        bias = taken_back + learned.bias - middle @ learned.v  # of h as it comes
        c_zs, c = names_say.argmax(1), (names_say + h @ learned.v + bias).argmax(1)
        facts = {
            "agreement_with_zero_shot": float((c == c_zs).float().mean()),
            "classes_without_pictures": int((c.bincount(minlength=len(p)) == 0).sum()),
        }
        record = {"facts": facts, "zero_shot_labels": c_zs.tolist(), "descriptions": texts}
        weights = torch.cat([p, learned.v.T / scale, bias[:, None] / scale], dim=1)
        about = ("latteclip-plus", asdict(self), record)
        return Classifier(clip, None, photos.classes, weights, *about, own=True)

    def _taken_back(self, logits: Float[Tensor, "N C"]) -> Float[Tensor, " C"]:
        """A bias against classes that are guessed too often."""
        match self.correction:
            case "sinkhorn":
                return sinkhorn(logits, self.gamma)
            case "fixed_point":
                return fixed_point(logits)
            case "none":
                return torch.zeros_like(logits[0])

    def questions(self, pictures: int, classes: int) -> int:
        """How many texts the describer is asked for at most: one of each picture, or none."""
        return pictures if self.descriptions else 0

    def _learn(self, logits: Float[Tensor, "N C"], h: Float[Tensor, "N H"], log: Log) -> "_Linear":
        """The fit: w g + s log pi as a linear function of centred h, after the last round."""
        n, c = logits.shape
        fold = torch.randperm(n, generator=generator(torch.initial_seed())) % self.folds
        parts = [(fold == k).nonzero()[:, 0] for k in range(self.folds)]
        scatters = torch.stack([h[part].T @ h[part] for part in parts])
        s = n / (n + self.trust * c)
        z, w = logits.softmax(1), torch.zeros(())
        linear = _Linear(h.new_zeros(h.shape[1], c), torch.zeros_like(logits[0]))
        for step in range(self.rounds):
            g = torch.empty_like(logits)
            for part, scatter in zip(parts, scatters, strict=True):
                others = torch.ones(n, dtype=torch.bool, device=h.device)
                others[part] = False
                found = gaussians(h[others], z[others], scatters.sum(0) - scatter, self.shrink)
                g[part] = h[part] @ found.v + found.bias
            if step == 0:
                w = self.weight * s * spread(logits) / spread(g).clamp_min(1e-6)
            log_pi = ((z.sum(0) + self.prior) / (n + self.prior * c)).clamp_min(1e-4).log()
            everyone = gaussians(h, z, scatters.sum(0), self.shrink)
            linear = _Linear(w * everyone.v, w * everyone.bias + s * log_pi)
            z = (logits + w * g + s * log_pi).softmax(1)
            moved = float((z.argmax(1) != logits.argmax(1)).float().mean())
            log(stage="fit", done=step + 1, total=self.rounds, moved=moved)
        return linear

    def _said(self, scene: Scene, log: Log) -> tuple[Float[Tensor, "N D"], list[dict[str, str]]]:
        """Text features of the descriptions, zero where there is none; and what was written."""
        features = torch.zeros_like(scene.features).to(scene.clip.device)
        if self.descriptions == 0:
            return features, []
        about = domain(self.domain, self.plural)
        asked = [Request((i,), about.ask_image(), about.noun) for i in range(len(scene.photos))]
        known = Answers(self.describer, scene, log).to(asked)
        written = {i: text for i, r in enumerate(asked) if (text := known[r])}
        if written:
            features[list(written)] = scene.clip.texts(list(written.values())).to(features)
        files = scene.photos.files
        rows = [{"kind": "image", "file_name": files[i], "text": t} for i, t in written.items()]
        return features, rows


class _Linear(NamedTuple):
    """Logits of C classes, h v + bias."""

    v: Float[Tensor, "H C"]
    bias: Float[Tensor, " C"]


def gaussians(
    h: Float[Tensor, "n H"], z: Float[Tensor, "n C"], scatter: Float[Tensor, "H H"], shrink: float
) -> _Linear:
    """g, the log densities of Gaussians with one covariance, up to what all classes share.

    Args:
        h: features.
        z: how much each belongs to each class.
        scatter: h^T h.
        shrink: lambda.
    """
    n = z.sum(0)  # n_c
    mu = torch.einsum("nc,nh,c->ch", z, h, 1 / n.clamp_min(1e-6))
    within = (scatter - torch.einsum("c,ch,ck->hk", n, mu, mu)) / max(1, len(h))  # S
    level = within.trace() / len(within)
    ridge = shrink * level + 1e-6 * level.clamp_min(1e-6)
    sigma = (1 - shrink) * within + ridge * torch.eye(len(within), device=h.device)
    v = torch.linalg.solve(sigma, mu.T)
    return _Linear(v, -torch.einsum("ch,hc->c", mu, v) / 2)


def spread(logits: Float[Tensor, "n C"]) -> Float[Tensor, ""]:
    """Mean over pictures of the deviation over classes."""
    return logits.std(dim=1).mean()
