"""SHIP's generator: a variational autoencoder whose decoder is the model's own text tower.

Wang et al., ICCV 2023, arXiv 2307.07397.

    mu, lambda = encoder(x)                                    of a unit image feature x
    z    = mu + exp(lambda / 2) eps,  eps ~ N(0, I)            its code
    p(z) = [p_1 + r(z), ..., p_L + r(z)]                       Eq. 3   words: shared, and of z
    x^   = T([p(z), name of c])                                        the tower stays frozen
    L    = |x - x^|^2 + KL( N(mu, e^lambda) || N(0, I) )       Eq. 2

Letters: n labelled images, K views, S batch, C classes, B of them labelled, D dimensions, Z of a
code, L words of width W.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, leaky_relu, normalize

from anyclass.backbone import Backbone
from anyclass.classifier.prompt_learner import AT_ONCE, PromptLearner
from anyclass.data import Classes
from anyclass.errors import ModelError
from anyclass.files import atomic_write
from anyclass.log import Log
from anyclass.methods.few_shot import LabelledFeatures
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate

START = 0.02
"""Deviation of all weights at the start (released code)."""

ALIVE = 0.01
"""Variance over images above which a latent counts as used."""

GLANCE, LOOK = 64, 512
"""Made features that the facts of an epoch (never more than a quarter of the images), and of the
end, are computed from."""

TINY = 1e-3
"""Least share that noise leaves of a feature."""

WEIGHTS, CODES, FACTS = -4, -5, -6
"""Set the draws of weights, of codes and of facts apart from others by one seed."""


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Vae:
    """How the generator is built and learned."""

    epochs: Annotated[int, Field(gt=0)] = 50
    """Passes over the labelled images (released code; 10 for ImageNet)."""
    least_steps: Annotated[int, Field(ge=0)] = 0
    """More passes, until there are as many steps."""
    batch_size: Annotated[int, Field(gt=0)] = 256
    """S (released code)."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """AdamW's learning rate, the same for every step (paper)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's (released code)."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the second term of Eq. 2 (paper: 1, at which the code says next to nothing)."""
    reconstruction: Literal["sum", "mean"] = "sum"
    """Over the D dimensions (paper: sum)."""
    length: Annotated[int, Field(gt=0)] = 4
    """L, words before the name (paper)."""
    shared_words: bool = True
    """Whether p is learned; without it the words are r(z) alone."""
    bias: Literal["identical", "sequential"] = "identical"
    """r(z) alike for all words (paper), or one for each."""
    latent: Annotated[int, Field(gt=0)] | None = None
    """Z; None: W (paper)."""
    encoder_width: Annotated[int, Field(gt=0)] = 4096
    """Hidden units of the encoder (paper; released code: 2048 on ten of eleven sets)."""
    bias_width: Annotated[int, Field(gt=0)] = 4096
    """Hidden units behind r (paper)."""
    slope: Annotated[float, Field(ge=0)] = 0.0
    """Of hidden units below zero (0: ReLU; released code, ImageNet only: 0.2)."""
    sees_class: bool = False
    """Whether the encoder reads the class text beside the image (paper: no)."""
    decoder: Literal["text_tower", "mlp"] = "text_tower"
    """The model's text tower (paper), or three layers on code and class text (its ablation)."""
    noise: bool = False
    """Add noise to what is made, up to the spread of real features within a class."""

    def learn(
        self,
        clip: Backbone,
        labelled: LabelledFeatures,
        classes: Classes,
        t: Float[Tensor, "C D"],
        log: Log,
        keep: Path | None = None,
    ) -> "Generator":
        """A generator of features of all classes, learned from images of some.

        Args:
            clip: the model; it is left as it is.
            labelled: the labelled images.
            classes: all C classes.
            t: their texts, without a gradient.
            log: gets both terms of each step, and the facts of each epoch.
            keep: file of the loop's state; None keeps nothing.
        """
        seed = torch.initial_seed()
        maker = Generator(self, clip, classes, t, seed)
        once = labelled.batches(self.batch_size, 1, seed).per_epoch
        epochs = max(self.epochs, -(-self.least_steps // once))
        glance = max(8, min(GLANCE, len(labelled.c) // 4))

        def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
            x, c = batch.hidden, labelled.c[batch.index]  # (S, D), (S,)
            if batch.starts_epoch:
                log(stage="ship", epoch=batch.step // once, **facts(maker, labelled, seed, glance))
            mu, lambda_ = maker.encode(x, c)
            z = code(mu, lambda_, _normal(mu, seeded_rng(seed, batch.step, CODES)))
            apart = squared_distance(x, maker.decode(z, c))
            apart = apart / x.shape[1] if self.reconstruction == "mean" else apart
            kl = kl_to_normal(mu, lambda_)
            terms = apart.mean(), self.kl_weight * kl.mean()  # Eq. 2
            return dict(zip(("reconstruction_loss", "kl_loss"), terms, strict=True))

        adam = AdamW(LearningRate(self.lr, min_lr=None), self.weight_decay)
        batches = labelled.batches(self.batch_size, epochs, seed)
        parameters = dict(maker.named_parameters())
        optimise(loss, parameters, batches, adam, log, Checkpoint.at(keep))
        maker.facts = facts(maker, labelled, seed, LOOK)
        if self.noise:
            maker.blur(labelled, log)
            maker.facts = facts(maker, labelled, seed, LOOK)
        log(stage="ship", epoch=epochs, **maker.facts)
        return maker


@contextmanager
def frozen(clip: Backbone) -> Iterator[None]:
    """Without gradients of the model, whatever happens: the towers then keep less in memory.

    A linear layer keeps its input for the gradient of its weight alone.
    """
    learning = [parameter for parameter in clip.model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class Generator(nn.Module):
    """Encoder, local bias and shared words; the text tower is the model's."""

    words: Tensor
    sigma: Tensor

    def __init__(
        self, how: Vae, clip: Backbone, classes: Classes, t: Float[Tensor, "C D"], seed: int
    ) -> None:
        """New weights for classes with texts t; equal for equal seeds."""
        super().__init__()
        self.how, self.t, self._clip = how, t, (clip,)
        self.learner = PromptLearner(clip, classes.prompts, how.length)
        self.facts: dict[str, float] = {}
        d, w = t.shape[1], self.learner.width
        self.latent = how.latent or w
        self.hidden = nn.Linear(d * (1 + how.sees_class), how.encoder_width)
        self.mu = nn.Linear(how.encoder_width, self.latent)
        self.lambda_ = nn.Linear(how.encoder_width, self.latent)
        mlp, act = how.decoder == "mlp", nn.LeakyReLU(how.slope)
        end = d if mlp else w * (how.length if how.bias == "sequential" else 1)
        middle = [nn.Linear(how.bias_width, how.bias_width), act] if mlp else []
        first = nn.Linear(self.latent + d * mlp, how.bias_width)
        self.r = nn.Sequential(first, act, *middle, nn.Linear(how.bias_width, end))
        self.register_buffer("sigma", torch.zeros(()))
        if how.shared_words and not mlp:
            self.words = nn.Parameter(torch.zeros(how.length, w))
        else:
            self.register_buffer("words", torch.zeros(how.length, w))
        drawing = seeded_rng(seed, WEIGHTS)
        for name, parameter in self.named_parameters():
            drawn = START * torch.randn(parameter.shape, generator=drawing)
            parameter.data = torch.zeros_like(drawn) if name.endswith("bias") else drawn
        self.to(t.device)

    def encode(
        self, x: Float[Tensor, "S D"], c: Int[Tensor, " S"]
    ) -> tuple[Float[Tensor, "S Z"], Float[Tensor, "S Z"]]:
        """Mu and lambda: mean and log-variance of the codes of features of classes c."""
        seen = torch.cat([x, self.t[c]], dim=1) if self.how.sees_class else x
        hidden = leaky_relu(self.hidden(seen), self.how.slope)
        return self.mu(hidden), self.lambda_(hidden)

    def prompts(self, z: Float[Tensor, "S Z"]) -> Float[Tensor, "S L W"]:
        """p(z), the words before the name."""
        r: Tensor = self.r(z).reshape(len(z), -1, self.learner.width)  # one for all words, or L
        return self.words + r  # Eq. 3

    def decode(self, z: Float[Tensor, "S Z"], c: Int[Tensor, " S"]) -> Float[Tensor, "S D"]:
        """x^, the unit features of codes and classes."""
        if self.how.decoder == "mlp":
            return normalize(self.r(torch.cat([z, self.t[c]], dim=1)), dim=-1)
        return self._clip[0].prompts(self.learner.filled(self.prompts(z), c))

    @torch.no_grad()
    def decoded(self, z: Float[Tensor, "m Z"], c: Int[Tensor, " m"]) -> Float[Tensor, "m D"]:
        """The same, few at a time and without a graph."""
        parts = zip(z.split(AT_ONCE), c.split(AT_ONCE), strict=True)
        return torch.cat([self.decode(*part) for part in parts])

    @torch.no_grad()
    def sample(self, c: Int[Tensor, " m"], drawing: torch.Generator) -> Float[Tensor, "m D"]:
        """Features of classes c, with codes that are drawn."""
        z = torch.randn(len(c), self.latent, generator=drawing).to(self.words)
        x = self.decoded(z, c)
        return normalize(x + self.sigma * _normal(x, drawing), dim=-1) if self.how.noise else x

    @torch.no_grad()
    def mean(self, c: Int[Tensor, " m"], _: torch.Generator | None = None) -> Float[Tensor, "m D"]:
        """Features of classes c with code 0."""
        return self.decoded(self.words.new_zeros(len(c), self.latent), c)

    def blur(self, labelled: LabelledFeatures, log: Log) -> None:
        """Set the noise to what real features spread within a class beyond made ones.

        Noise of total variance v, then made unit again, turns the variance w of unit vectors into
        1 - (1 - w) / (1 + v).
        """
        real = spread(labelled.x, labelled.c)[1]
        if not real:
            log(warning="no class has two images, so there is no spread to add noise up to")
            return
        synthetic = real * self.facts.get("spread", 1.0)
        v = max(0.0, real - synthetic) / max(TINY, 1 - real)
        self.sigma.fill_((v / labelled.x.shape[2]) ** 0.5)

    def save(self, path: Path, context: Float[Tensor, "L W"] | None = None) -> None:
        """Write everything that other names need; `context`: learned words to go on from."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        tensors |= {} if context is None else {"context": context.detach().cpu().contiguous()}
        about = TypeAdapter(Vae).dump_json(self.how).decode()
        with atomic_write(path) as draft:
            save_file(tensors, draft, {"vae": about, "model": self._clip[0].weights_sha256})

    @classmethod
    def load(
        cls, path: Path, clip: Backbone, classes: Classes, t: Float[Tensor, "C D"]
    ) -> tuple["Generator", Float[Tensor, "L W"] | None]:
        """A saved generator for a new list of names, and the words that were saved with it.

        Raises:
            ModelError: there is none, it is damaged, or it belongs to another model.
        """
        if not path.is_file():
            raise ModelError(
                f"{path} is missing; give the folder of a finished `anyclass fit ship`"
            )
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.get("model") != clip.weights_sha256:
                raise ModelError(f"{path} was learned on another model than {clip.model_id}")
            how = TypeAdapter(Vae).validate_json(about["vae"])
            context = tensors.pop("context", None)
            _check(how, tensors, context)
            maker = cls(how, clip, classes, t, seed=0)
            maker.load_state_dict(tensors)
        except (SafetensorError, OSError, LookupError, RuntimeError, ValueError) as wrong:
            raise ModelError(f"{path} holds no generator of SHIP: {wrong!s:.200}") from wrong
        return maker, None if context is None else context.to(clip.device)


def code(
    mu: Float[Tensor, "S Z"], lambda_: Float[Tensor, "S Z"], eps: Float[Tensor, "S Z"]
) -> Float[Tensor, "S Z"]:
    """Z = mu + exp(lambda / 2) eps, drawn from N(mu, e^lambda)."""
    return mu + (lambda_ / 2).exp() * eps


def squared_distance(x: Float[Tensor, "S D"], x_hat: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
    """|x - x^|^2, summed over dimensions: 2 - 2 cos of unit vectors."""
    return (x - x_hat).pow(2).sum(1)


def kl_to_normal(mu: Float[Tensor, "S Z"], lambda_: Float[Tensor, "S Z"]) -> Float[Tensor, " S"]:
    """KL( N(mu, e^lambda) || N(0, I) ) = -1/2 sum_j (1 + lambda_j - mu_j^2 - e^lambda_j)."""
    return -0.5 * (1 + lambda_ - mu.pow(2) - lambda_.exp()).sum(dim=1)


def spread(x: Float[Tensor, "m K D"], c: Int[Tensor, " m"]) -> tuple[Float[Tensor, "B D"], float]:
    """Mean feature of each class that occurs, and the variance within classes, E|x - mean|^2.

    The variance is an unbiased estimate over rows of one view, and its mean over views; 0 where no
    class has two rows.
    """
    place = c.unique(return_inverse=True)[1].to(x.device)
    count = place.bincount()
    sums = x.new_zeros(len(count), *x.shape[1:]).index_add(0, place, x)
    means = torch.einsum("bkd,b->bkd", sums, 1 / count)
    apart = (x - means[place]).pow(2).sum() / x.shape[1]
    return means.mean(1), float(apart) / max(1, len(x) - len(count))


@torch.no_grad()
def facts(maker: Generator, labelled: LabelledFeatures, seed: int, count: int) -> dict[str, float]:
    """How good the generator is, and how far its code has collapsed.

    Args:
        maker: the generator.
        labelled: the labelled images.
        seed: of what is drawn.
        count: images, and features made of labelled and again of other classes, that it looks at;
            of more classes than it can, it draws some.

    Returns:
        reconstruction: mean |x - x^|^2.
        kl: mean KL of the codes, in nats.
        active: latents whose mean varies over the images by more than 0.01.
        collapsed: the reconstruction of the same images with code 0 instead.
        spread: variance within labelled classes, of made over real features; left out where no
            class has two images.
        cos_mean: mean cosine between a labelled class's mean made and mean real feature.
        cos_text: the same of the class text instead of made features.
        agree: share of made features of the other classes that lie nearest to their own text; left
            out where there are none.
    """
    x, c, drawing = labelled.x, labelled.c, seeded_rng(seed, FACTS)
    mu, lambda_ = maker.encode(x[:, 0], c)
    rows = _some(torch.arange(len(c)), count, drawing)
    z = code(mu[rows], lambda_[rows], _normal(mu[rows], drawing))
    near = squared_distance(x[rows, 0], maker.decoded(z, c[rows]))
    classes, place = c[rows].unique(return_inverse=True)
    found: dict[str, Tensor | float] = {
        "reconstruction": near.mean(),
        "kl": kl_to_normal(mu, lambda_).mean(),
        "active": (mu.var(0) > ALIVE).sum() if len(mu) > 1 else 0.0,
        "collapsed": squared_distance(x[rows, 0], maker.mean(classes)[place]).mean(),
    }
    base = _some(labelled.classes, max(1, count // 2), drawing)
    c_synthetic, kept = base.repeat_interleave(max(2, count // len(base))), torch.isin(c, base)
    mean, apart = spread(maker.sample(c_synthetic, drawing)[:, None], c_synthetic)
    real, far = spread(x[kept.to(x.device)], c[kept])
    found |= {"spread": apart / far} if far else {}
    found["cos_mean"] = cosine_similarity(mean, real).mean()
    found["cos_text"] = cosine_similarity(maker.t[base], real).mean()
    others = torch.arange(len(maker.t))
    named = _some(others[~torch.isin(others, labelled.classes)], count, drawing)
    if len(named):
        wanted = named.repeat_interleave(count // len(named))
        guess = (maker.sample(wanted, drawing) @ maker.t.T).argmax(1)
        found["agree"] = (guess.cpu() == wanted).float().mean()
    return {name: float(value) for name, value in found.items()}


def _some(rows: Int[Tensor, " m"], most: int, drawing: torch.Generator) -> Int[Tensor, " some"]:
    """At most so many of them, drawn, in order."""
    return rows[torch.randperm(len(rows), generator=drawing)[:most].sort().values]


def _check(how: Vae, tensors: Mapping[str, Tensor], context: Tensor | None) -> None:
    """Refuse a file whose tensors are not what it says, before anything of that size is made.

    Raises:
        ValueError: they are not.
        KeyError: one is missing.
    """
    width = tensors["words"].shape[-1]
    said = {"hidden.bias": how.encoder_width, "r.0.bias": how.bias_width, "words": how.length}
    said["mu.bias"] = how.latent or width
    if wrong := [name for name in said if tensors[name].shape[:1] != (said[name],)]:
        raise ValueError(f"{' and '.join(wrong)} have another size than its settings say")
    if context is not None and (context.ndim != 2 or context.shape[1] != width):
        raise ValueError("its context has another width than its words")
    for name, tensor in [*tensors.items(), ("context", context)]:
        if tensor is not None and not torch.isfinite(tensor).all():
            raise ValueError(f"{name!r:.100} holds more than finite numbers")


def _normal(like: Tensor, drawing: torch.Generator) -> Tensor:
    """Standard normal numbers, as many as in `like`."""
    return torch.randn(like.shape, generator=drawing).to(like)
