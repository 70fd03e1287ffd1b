"""The bridge between the two towers of the starter model.

Letters: K = 1000 ImageNet classes, W and b the image tower's classifier, f pooled features of a
image (1280,), z its centred logits (K,), t pooled features of a text (384,), D = 768.

Photographs, in closed form. There is not one to train on, but the classifier says what they look
like: class units h (see `anyclass.backbone.starter`) turn an image into the evidence for each
class, and a ridge regression turns a text into the evidence it should meet,

    Q' = argmin  sum_i w_i |(t_i - n) Q' - y_i|^2 + lambda |Q'|^2

with y_i the evidence in an ideal image of the classes that text i names (its own, those it is a
hypernym of, or its relatives). Q' = U S V^T; texts are projected by U S and evidence by V.

Drawings, by gradient descent. Image units g and their projection are trained so that drawings
find their words and the other way round (contrastive, several words of a drawing are right), while
they keep quiet on made-up photographs,

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
"""Kinds of words a concept has."""

TEMPLATES = (
    PLAIN,
    "{}",
    "a {}.",
    "a drawing of a {}.",
    "an image of {}.",
)
"""Every text but a gloss is read in all of them."""


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters; LOG.md says how each was chosen."""

    kinds: tuple[float, ...] = (0.4, 0.2, 0.2, 0.1, 0.1)
    """How often a drawing is shown with a word of each kind."""
    weights: tuple[float, ...] = (1.0, 0.5, 0.3, 0.0, 1.0)
    """w_i of the words of ImageNet's classes, by kind."""
    relatives: float = 0.1
    """w_i of the other nouns of ImageNet-21k, divided by the number of classes they stand for."""
    ridge: float = 200.0
    """lambda."""
    evidence: float = 6.0
    """Centred logit of its class in an ideal image."""
    class_gain: float = 2.0
    """Length of the class part on an ideal image; random image units begin at about 1."""
    alpha: tuple[float, float] = (4.0, 11.0)
    """Least and largest centred logit of the class of a made-up photograph."""
    second: float = 0.5
    """Largest share of a second class, of the first one's logit."""
    clutter: float = 1.5
    """Largest share of the difference of two drawings, over sqrt 2."""
    noise: float = 0.4
    """Largest share of the deviation that features have from place to place in a photograph."""
    quiet: float = 10.0
    """Weight of the length of the image part on made-up photographs, beside the class part's."""
    steps: int = 600
    """Of AdamW, with a warm-up of 50 and a cosine to 0."""
    batch: int = 512
    """Drawings a step sees, and made-up photographs."""
    rate: float = 1e-3
    """Learning rate of the image units and their projection."""
    scale: float = 30.0
    """1 / tau while training."""


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
        """What the class units say."""
        return gelu(f @ self.class_weight.T + self.class_bias) @ self.class_projection

    def images(self, f: Float[Tensor, "B W"]) -> Float[Tensor, "B D"]:
        """What the image units say."""
        return gelu(f @ self.image_weight.T + self.image_bias) @ self.image_projection

    def image(self, f: Float[Tensor, "B W"]) -> Float[Tensor, "B D"]:
        """Features of images."""
        return self.classes(f) + self.images(f)

    def text(self, t: Float[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Features of texts."""
        return (t - self.centre) @ self.text_projection

    def tensors(self, scale: float) -> dict[str, Tensor]:
        """What `backbone/starter.py` reads, half precision; the class units are the tower's own."""
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
    """What the image tower's weights say of images that nobody has."""

    rows: Float[Tensor, "K W"]
    """W of its classifier, centred."""
    mean: Float[Tensor, " W"]
    """m, the mean feature."""
    deviation: Float[Tensor, " W"]
    """From place to place in an image."""

    @classmethod
    def of(
        cls, rows: Float[Tensor, "K W"], beta: Float[Tensor, " W"], gamma: Float[Tensor, " W"]
    ) -> "Photographs":
        """From the classifier and the last batch norm: relu6(N(beta, gamma^2)), by quadrature."""
        x = torch.linspace(-8, 8, 4001)[:, None]
        weight = torch.exp(-(x**2) / 2) / torch.exp(-(x**2) / 2).sum()
        y = (beta + gamma.abs() * x).clamp(0, 6)
        mean = (weight * y).sum(0)
        return cls(rows - rows.mean(0), mean, ((weight * y**2).sum(0) - mean**2).sqrt())

    def ideal(self, classes: Int[Tensor, " B"], evidence: float) -> Float[Tensor, "B W"]:
        """The least change of the mean feature that gives each class that centred logit."""
        return self.mean + evidence * self.towards(classes)

    def towards(self, classes: Int[Tensor, " B"]) -> Float[Tensor, "B W"]:
        """w_k / |w_k|^2: the least change that raises the logit of each class by one."""
        w = self.rows[classes]
        return w / (w**2).sum(1, keepdim=True)

    def made_up(
        self,
        classes: Int[Tensor, " B"],
        drawings: Float[Tensor, "N W"],
        settings: Settings,
        random: np.random.Generator,
    ) -> Float[Tensor, "B W"]:
        """Features of photographs of `classes`, with clutter from `drawings`."""
        count = len(classes)

        def uniform(low: float, high: float) -> Float[Tensor, "B 1"]:
            return torch.from_numpy(random.uniform(low, high, (count, 1))).float()

        def some(most: int) -> Int[Tensor, " B"]:
            return torch.from_numpy(random.integers(most, size=count))

        alpha = uniform(*settings.alpha)
        other = self.towards(some(len(self.rows)))
        f = self.mean + alpha * self.towards(classes)
        f = f + uniform(0, settings.second) * alpha * other
        clutter = drawings[some(len(drawings))].float() - drawings[some(len(drawings))].float()
        f = f + uniform(0, settings.clutter) * clutter / 2**0.5
        noise = torch.from_numpy(random.standard_normal(f.shape)).float() * self.deviation
        return (f + uniform(0, settings.noise) * noise).clamp(min=0)


def evidence_of(
    photographs: Photographs,
    units: tuple[Float[Tensor, "K W"], Float[Tensor, " K"]],
    known: Int[Tensor, " k"],
    evidence: float,
) -> Float[Tensor, "K K"]:
    """Row k: unit evidence in an ideal image of class k, less the mean over `known` classes."""
    every = torch.arange(len(photographs.rows))
    logits = photographs.ideal(every, evidence) @ units[0].T + units[1]
    live = torch.zeros(len(every)).index_fill_(0, known, 1.0)
    rows = normalize(-gelu(logits) * live, dim=1)
    return rows - rows[known].mean(0)


@dataclass(frozen=True)
class TrainingSet:
    """Texts of which each stands for some classes."""

    texts: Float[Tensor, "N V T"]
    """Pooled features of N texts, each in V forms."""
    classes: Sequence[Sequence[int]]
    """The classes of each."""
    weights: Float[Tensor, " N"]
    """w_i."""


def text_map(
    lessons: Sequence[TrainingSet],
    evidence: Float[Tensor, "K K"],
    centre: Float[Tensor, " T"],
    ridge: float,
) -> Float[Tensor, "T K"]:
    """Q': the weighted ridge regression from texts to evidence."""
    width = len(centre)
    gram, cross = ridge * torch.eye(width), torch.zeros(width, len(evidence))
    for training_set in lessons:
        y = normalize(
            torch.stack([evidence[list(some)].mean(0) for some in training_set.classes]), dim=1
        )
        for form in (training_set.texts - centre).unbind(1):
            weighted = torch.einsum(
                "n,nt->nt", training_set.weights / training_set.texts.shape[1], form
            )
            gram += weighted.T @ form
            cross += weighted.T @ y
    return torch.linalg.solve(gram, cross)


def several_right(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "B D"],
    right: Bool[Tensor, "B B"],
    scale: float,
) -> Float[Tensor, ""]:
    """Contrastive loss in which image i belongs to every text j with `right[i, j]`.

    loss = mean_i mean_{j right} -log softmax_j(s_ij) / 2 + the same from texts to images
    """
    logits = scale * images @ texts.T

    def one_way(logits: Tensor, right: Tensor) -> Tensor:
        target = right.float() / right.sum(1, keepdim=True)
        return -torch.einsum("ij,ij->i", target, log_softmax(logits, dim=1)).mean()

    return (one_way(logits, right) + one_way(logits.T, right.T)) / 2


@dataclass(frozen=True)
class LabelledFeatures:
    """Drawings and the words for them."""

    features: Float[Tensor, "N V W"]
    """V views of each drawing."""
    words: Sequence[Mapping[str, Sequence[int]]]
    """Kind -> texts, for each drawing."""
    texts: Float[Tensor, "M F T"]
    """Pooled features of all texts, in F forms."""

    def sample(
        self, settings: Settings, random: np.random.Generator
    ) -> tuple[Float[Tensor, "B W"], Float[Tensor, "B T"], Bool[Tensor, "B B"]]:
        """Some views, a word for each, and which words are right for which view."""
        size = settings.batch
        index = random.integers(len(self.words), size=size)
        view = random.integers(self.features.shape[1], size=size)
        words = [_word(self.words[i], settings.kinds, random) for i in index]
        form = random.integers(self.texts.shape[1], size=size)
        all_words = [{word for some in self.words[i].values() for word in some} for i in index]
        right = torch.tensor([[word in own for word in words] for own in all_words])
        return self.features[index, view].float(), self.texts[words, form], right


def _word(
    words: Mapping[str, Sequence[int]], kinds: Sequence[float], random: np.random.Generator
) -> int:
    """A word, its kind drawn first."""
    there = [kind for kind in KINDS if words.get(kind)]
    chance = np.array([kinds[KINDS.index(kind)] for kind in there])
    return int(random.choice(words[random.choice(there, p=chance / chance.sum())]))


def beginning(
    photographs: Photographs,
    units: tuple[Float[Tensor, "K W"], Float[Tensor, " K"]],
    texts: tuple[Float[Tensor, "T K"], Float[Tensor, " T"]],
    drawings: Float[Tensor, "N W"],
    settings: Settings,
) -> Bridge:
    """The closed form, with image units along the main directions of drawings, and silent."""
    u, s, v = torch.linalg.svd(texts[0], full_matrices=False)
    rank, hidden = len(s), 2 * WIDTH - len(units[0])
    some = (drawings - drawings.mean(0))[:8000]
    _, spread, main = torch.linalg.svd(some, full_matrices=False)
    spread = spread / len(some) ** 0.5
    images = main[:hidden] / spread[:hidden, None].clamp(min=float(spread[hidden // 3]))
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
    """Train the image part of `bridge` in place; returns the loss of each step."""
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
        some = torch.from_numpy(random.integers(classes, size=settings.batch))
        f = photographs.made_up(some, drawings, settings, random)
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
    """1 / tau under which the right columns are likeliest, the mean over several questions."""

    def surprise(scale: float) -> float:
        terms = [nn.functional.cross_entropy(scale * s, y) for s, y in cosines]
        return float(torch.stack(terms).mean())

    return float(min(scales, key=surprise))
