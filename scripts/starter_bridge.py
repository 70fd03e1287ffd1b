"""The bridge between the image and the text encoder of the starter model.

Letters: K = 1000 ImageNet classes, W and b the image encoder's classifier, f pooled features of an
image (1280,), z its centred logits (K,), t pooled features of a text (384,), D = 768.

Photographs, in closed form. There are none to train on, but the classifier describes them: class
units h (see `anyclass.backbone.starter`) turn an image into the evidence for each class, and a
ridge regression turns a text into the expected evidence,

    Q' = argmin  sum_i w_i |(t_i - n) Q' - y_i|^2 + lambda |Q'|^2

with y_i the evidence in an ideal image of the classes that text i names (its own, those it is a
hypernym of, or its relatives). Q' = U S V^T; texts are projected by U S and evidence by V.

Drawings, by gradient descent. Image units g and their projection are trained with a contrastive
loss between drawings and their words (several words of a drawing are correct), and with a penalty
on their output for synthetic photographs,

    m + alpha w_k / |w_k|^2 + a second class + clutter, not below 0

where m is the mean feature of photographs, E relu6(N(beta, gamma)) over the last batch norm, and
clutter the difference of two drawings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, log_softmax, normalize

from anyclass.backbone.starter import WIDTH
from anyclass.features.text import PLAIN

KINDS = ("name", "synonym", "hypernym", "folder", "gloss")
"""Kinds of words of a concept."""

TEMPLATES = (
    PLAIN,
    "{}",
    "a {}.",
    "a drawing of a {}.",
    "an image of {}.",
)
"""Templates for every text except glosses."""


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters; LOG.md explains how each was chosen."""

    kinds: tuple[float, ...] = (0.4, 0.2, 0.2, 0.1, 0.1)
    """Sampling probability of each kind of word for a drawing."""
    weights: tuple[float, ...] = (1.0, 0.5, 0.3, 0.0, 1.0)
    """w_i of the words of ImageNet's classes, by kind."""
    relatives: float = 0.1
    """w_i of the other nouns of ImageNet-21k, divided by the number of their classes."""
    ridge: float = 200.0
    """lambda."""
    evidence: float = 6.0
    """Centred logit of the class of an ideal image."""
    class_gain: float = 2.0
    """Norm of the class part for an ideal image; that of random image units starts at about 1."""
    alpha: tuple[float, float] = (4.0, 11.0)
    """Smallest and largest centred logit of the class of a synthetic photograph."""
    second: float = 0.5
    """Largest logit of a second class, as a share of the first one's."""
    clutter: float = 1.5
    """Largest factor on the difference of two drawings, divided by sqrt 2."""
    noise: float = 0.4
    """Largest factor on the standard deviation of features within a photograph."""
    quiet: float = 10.0
    """Weight of the image part's squared norm for synthetic photographs, relative to the class
    part's."""
    steps: int = 600
    """Steps of AdamW, with a warm-up of 50 and a cosine to 0."""
    batch: int = 512
    """Drawings, and synthetic photographs, per step."""
    rate: float = 1e-3
    """Learning rate of the image units and their projection."""
    scale: float = 30.0
    """1 / tau in training."""


class Bridge(nn.Module):
    """`image(f)` and `text(t)`, both of width D, not normalised."""

    def __init__(
        self,
        units: tuple[Float[Tensor, "K W"], Float[Tensor, " K"]],
        images: tuple[Float[Tensor, "H W"], Float[Tensor, " H"]],
        projection: Float[Tensor, "U D"],
        texts: tuple[Float[Tensor, "T D"], Float[Tensor, " T"]],
    ) -> None:
        """Class units, image units, projection of both, text projection and centre."""
        super().__init__()
        self.class_weight, self.class_bias = (nn.Buffer(part) for part in units)
        self.image_weight, self.image_bias = (nn.Parameter(part) for part in images)
        self.class_projection = nn.Buffer(projection[: len(units[0])])
        self.image_projection = nn.Parameter(projection[len(units[0]) :])
        self.text_projection, self.centre = (nn.Buffer(part) for part in texts)

    def classes(self, f: Float[Tensor, "B W"]) -> Float[Tensor, "B D"]:
        """Output of the class units."""
        return gelu(f @ self.class_weight.T + self.class_bias) @ self.class_projection

    def images(self, f: Float[Tensor, "B W"]) -> Float[Tensor, "B D"]:
        """Output of the image units."""
        return gelu(f @ self.image_weight.T + self.image_bias) @ self.image_projection

    def image(self, f: Float[Tensor, "B W"]) -> Float[Tensor, "B D"]:
        """Features of images."""
        return self.classes(f) + self.images(f)

    def text(self, t: Float[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Features of texts."""
        return (t - self.centre) @ self.text_projection

    def tensors(self, scale: float) -> dict[str, Tensor]:
        """Tensors for `backbone/starter.py` in half precision, without class units."""
        projection = torch.cat([self.class_projection, self.image_projection])
        half = {
            "picture_units": self.image_weight,
            "picture_biases": self.image_bias,
            "image_projection": projection.T,
            "text_projection": self.text_projection.T,
            "text_centre": self.centre,
        }
        tensors = {name: tensor.detach().half().contiguous() for name, tensor in half.items()}
        return tensors | {"logit_scale": torch.tensor(log(scale))}


@dataclass(frozen=True)
class Photographs:
    """Statistics of photographs according to the weights of the image encoder."""

    rows: Float[Tensor, "K W"]
    """W of its classifier, centred."""
    mean: Float[Tensor, " W"]
    """m, the mean feature."""
    deviation: Float[Tensor, " W"]
    """Standard deviation of features within an image."""

    @classmethod
    def of(
        cls, rows: Float[Tensor, "K W"], beta: Float[Tensor, " W"], gamma: Float[Tensor, " W"]
    ) -> "Photographs":
        """Compute from the classifier and the last batch norm: relu6(N(beta, gamma^2))."""
        x = torch.linspace(-8, 8, 4001)[:, None]
        weight = torch.exp(-(x**2) / 2) / torch.exp(-(x**2) / 2).sum()
        y = (beta + gamma.abs() * x).clamp(0, 6)
        mean = (weight * y).sum(0)
        return cls(rows - rows.mean(0), mean, ((weight * y**2).sum(0) - mean**2).sqrt())

    def ideal(self, classes: Int[Tensor, " B"], evidence: float) -> Float[Tensor, "B W"]:
        """Mean feature with the smallest change that gives each class the centred logit."""
        return self.mean + evidence * self.towards(classes)

    def towards(self, classes: Int[Tensor, " B"]) -> Float[Tensor, "B W"]:
        """w_k / |w_k|^2, the smallest change that raises the logit of class k by one."""
        w = self.rows[classes]
        return w / (w**2).sum(1, keepdim=True)

    def synthetic(
        self,
        classes: Int[Tensor, " B"],
        drawings: Float[Tensor, "N W"],
        settings: Settings,
        random: np.random.Generator,
    ) -> Float[Tensor, "B W"]:
        """Features of synthetic photographs of `classes`, with clutter from `drawings`."""
        count = len(classes)

        def uniform(low: float, high: float) -> Float[Tensor, "B 1"]:
            return torch.from_numpy(random.uniform(low, high, (count, 1))).float()

        def indices(most: int) -> Int[Tensor, " B"]:
            return torch.from_numpy(random.integers(most, size=count))

        alpha = uniform(*settings.alpha)
        other = self.towards(indices(len(self.rows)))
        f = self.mean + alpha * self.towards(classes)
        f = f + uniform(0, settings.second) * alpha * other
        one = drawings[indices(len(drawings))].float()
        clutter = one - drawings[indices(len(drawings))].float()
        f = f + uniform(0, settings.clutter) * clutter / 2**0.5
        noise = torch.from_numpy(random.standard_normal(f.shape)).float() * self.deviation
        return (f + uniform(0, settings.noise) * noise).clamp(min=0)


def evidence_of(
    photographs: Photographs,
    units: tuple[Float[Tensor, "K W"], Float[Tensor, " K"]],
    known: Int[Tensor, " k"],
    evidence: float,
) -> Float[Tensor, "K K"]:
    """Unit evidence in an ideal image of each class, minus the mean over `known` classes."""
    every = torch.arange(len(photographs.rows))
    logits = photographs.ideal(every, evidence) @ units[0].T + units[1]
    live = torch.zeros(len(every)).index_fill_(0, known, 1.0)
    rows = normalize(-gelu(logits) * live, dim=1)
    return rows - rows[known].mean(0)


@dataclass(frozen=True)
class TrainingSet:
    """Texts with their classes."""

    texts: Float[Tensor, "N V T"]
    """Pooled features of N texts, each in V forms."""
    classes: Sequence[Sequence[int]]
    """Classes of each text."""
    weights: Float[Tensor, " N"]
    """w_i."""


def text_map(
    training_sets: Sequence[TrainingSet],
    evidence: Float[Tensor, "K K"],
    centre: Float[Tensor, " T"],
    ridge: float,
) -> Float[Tensor, "T K"]:
    """Q': the weighted ridge regression from texts to evidence."""
    width = len(centre)
    gram = ridge * torch.eye(width)
    cross = torch.zeros(width, len(evidence))
    for training_set in training_sets:
        y = normalize(
            torch.stack([evidence[list(some)].mean(0) for some in training_set.classes]), dim=1
        )
        for form in (training_set.texts - centre).unbind(1):
            weighted = torch.einsum(
                "n,nt->nt", training_set.weights / training_set.texts.shape[1], form
            )
            gram += weighted.T @ form
            cross += weighted.T @ y
    map_of_texts: Tensor = torch.linalg.solve(gram, cross)
    return map_of_texts


def several_right(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "B D"],
    right: Bool[Tensor, "B B"],
    scale: float,
) -> Float[Tensor, ""]:
    """Contrastive loss for images with several correct texts, given by `right[i, j]`.

    loss = mean_i mean_{j right} -log softmax_j(s_ij) / 2 + the same from texts to images
    """
    logits = scale * images @ texts.T

    def one_way(logits: Tensor, right: Tensor) -> Tensor:
        target = right.float() / right.sum(1, keepdim=True)
        return -torch.einsum("ij,ij->i", target, log_softmax(logits, dim=1)).mean()

    return (one_way(logits, right) + one_way(logits.T, right.T)) / 2


@dataclass(frozen=True)
class LabelledFeatures:
    """Drawings with their words."""

    features: Float[Tensor, "N V W"]
    """V views of each drawing."""
    words: Sequence[Mapping[str, Sequence[int]]]
    """Kind -> texts, for each drawing."""
    texts: Float[Tensor, "M F T"]
    """Pooled features of all texts, in F forms."""

    def sample(
        self, settings: Settings, random: np.random.Generator
    ) -> tuple[Float[Tensor, "B W"], Float[Tensor, "B T"], Bool[Tensor, "B B"]]:
        """Draw views, a word for each, and the mask of the correct words of each view."""
        size = settings.batch
        index = random.integers(len(self.words), size=size)
        view = random.integers(self.features.shape[1], size=size)
        words = [_word(self.words[i], settings.kinds, random) for i in index]
        form = random.integers(self.texts.shape[1], size=size)
        right = []
        for i in index:
            own = set().union(*self.words[i].values())
            right.append([word in own for word in words])
        return self.features[index, view].float(), self.texts[words, form], torch.tensor(right)


def _word(
    words: Mapping[str, Sequence[int]], kinds: Sequence[float], random: np.random.Generator
) -> int:
    """Draw a kind, then a word of this kind."""
    present = [kind for kind in KINDS if words.get(kind)]
    weights = np.array([kinds[KINDS.index(kind)] for kind in present])
    return int(random.choice(words[random.choice(present, p=weights / weights.sum())]))


def initial_bridge(
    photographs: Photographs,
    units: tuple[Float[Tensor, "K W"], Float[Tensor, " K"]],
    texts: tuple[Float[Tensor, "T K"], Float[Tensor, " T"]],
    drawings: Float[Tensor, "N W"],
    settings: Settings,
) -> Bridge:
    """Closed-form bridge; its image units are principal directions of drawings with output 0."""
    u, s, v = torch.linalg.svd(texts[0], full_matrices=False)
    rank = len(s)
    hidden = 2 * WIDTH - len(units[0])
    centred = (drawings - drawings.mean(0))[:8000]
    _, deviation, main = torch.linalg.svd(centred, full_matrices=False)
    deviation = deviation / len(centred) ** 0.5
    images = main[:hidden] / deviation[:hidden, None].clamp(min=float(deviation[hidden // 3]))
    projection = torch.zeros(2 * WIDTH, WIDTH)
    ideal = photographs.ideal(torch.arange(len(units[0])), settings.evidence)
    length = gelu(ideal @ units[0].T + units[1]).norm(dim=1).mean()
    projection[: len(units[0]), :rank] = -v.T * settings.class_gain / length
    text_projection = torch.zeros(len(u), WIDTH)
    text_projection[:, :rank] = u * s
    return Bridge(
        units,
        (images, -images @ drawings.mean(0)),
        projection,
        (text_projection, texts[1]),
    )


def train(
    bridge: Bridge,
    features: LabelledFeatures,
    photographs: Photographs,
    settings: Settings,
    seed: int = 0,
) -> list[float]:
    """Train the image part of `bridge` in place and return the loss of each step."""
    random = np.random.default_rng(seed)
    drawings = features.features.flatten(0, 1)
    classes = len(photographs.rows)
    optimiser = torch.optim.AdamW(
        bridge.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    rate = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 1 / 50, total_iters=50),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, settings.steps - 50)),
        ],
        milestones=[50],
    )
    losses = []
    for _ in range(settings.steps):
        f, t, right = features.sample(settings, random)
        images, texts = (normalize(x, dim=1) for x in (bridge.image(f), bridge.text(t)))
        loss = several_right(images, texts, right, settings.scale)
        drawn = torch.from_numpy(random.integers(classes, size=settings.batch))
        f = photographs.synthetic(drawn, drawings, settings, random)
        noise = (bridge.images(f) ** 2).sum(1).mean() / (bridge.classes(f) ** 2).sum(1).mean()
        optimiser.zero_grad()
        (loss + settings.quiet * noise).backward()
        optimiser.step()
        rate.step()
        losses.append(float(loss.detach()))
    return losses


def likeliest_scale(
    cosines: Sequence[tuple[Float[Tensor, "N C"], Int[Tensor, " N"]]],
    scales: Sequence[float] = tuple(range(5, 101, 5)),
) -> float:
    """1 / tau with the smallest mean cross entropy over several datasets."""

    def loss(scale: float) -> float:
        terms = [nn.functional.cross_entropy(scale * s, y) for s, y in cosines]
        return float(torch.stack(terms).mean())

    return float(min(scales, key=loss))
