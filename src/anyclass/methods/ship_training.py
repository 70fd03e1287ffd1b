"""Training of SHIP's generator, and metrics of its quality.

Letters as in `ship_vae.py`: n labelled images, K views, S batch, C classes, B of them labelled, D
dimensions, Z dimensions of a code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from anyclass.backbone import Backbone
from anyclass.data import Classes
from anyclass.log import Log
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.methods.ship_equations import (
    class_means_and_variance,
    code,
    kl_to_normal,
    normal_like,
    squared_distance,
)
from anyclass.methods.ship_vae import Generator, Vae
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate

ACTIVE_VARIANCE = 0.01
"""Variance over images above which a latent counts as active."""

EPOCH_SAMPLES = 64
"""Synthetic features for the metrics of an epoch, at most a quarter of the images."""

FINAL_SAMPLES = 512
"""Synthetic features for the final metrics."""

CODES_KEY = -5
"""Seed key of codes in training."""

METRICS_KEY = -6
"""Seed key of samples for the metrics."""


def train_generator(
    settings: Vae,
    clip: Backbone,
    labelled: LabelledFeatures,
    classes: Classes,
    t: Float[Tensor, "C D"],
    log: Log,
    checkpoint: Path | None = None,
    seed: int = 0,
) -> Generator:
    """Train a generator on labelled images, for features of all classes.

    Args:
        settings: architecture and training.
        clip: the model; it is not changed.
        labelled: features of labelled images.
        classes: all C classes.
        t: their text features, without a gradient.
        log: receives both terms of each step, and the metrics of each epoch.
        checkpoint: checkpoint file, to resume a killed run; None: no checkpoint.
        seed: random seed of weights, codes and batches.
    """
    generator = Generator(settings, clip, classes, t, seed)
    per_epoch = labelled.batches(settings.batch_size, 1, seed).per_epoch
    epochs = max(settings.epochs, -(-settings.least_steps // per_epoch))
    samples = max(8, min(EPOCH_SAMPLES, len(labelled.c) // 4))

    def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
        x = batch.hidden  # (S, D)
        c = labelled.c[batch.index]  # (S,)
        if batch.starts_epoch:
            epoch = batch.step // per_epoch
            log(stage="ship", epoch=epoch, **generator_metrics(generator, labelled, seed, samples))
        mu, lambda_ = generator.encode(x, c)
        z = code(mu, lambda_, normal_like(mu, seeded_rng(seed, batch.step, CODES_KEY)))
        distance = squared_distance(x, generator.decode(z, c))
        if settings.reconstruction == "mean":
            distance = distance / x.shape[1]
        kl = kl_to_normal(mu, lambda_)
        return {  # Eq. 2
            "reconstruction_loss": distance.mean(),
            "kl_loss": settings.kl_weight * kl.mean(),
        }

    adam = AdamW(LearningRate(settings.lr, min_lr=None), settings.weight_decay)
    batches = labelled.batches(settings.batch_size, epochs, seed)
    parameters = dict(generator.named_parameters())
    optimise(loss, parameters, batches, adam, log, Checkpoint.at(checkpoint))
    generator.metrics = generator_metrics(generator, labelled, seed, FINAL_SAMPLES)
    if settings.noise:
        generator.fit_noise(labelled, log)
        generator.metrics = generator_metrics(generator, labelled, seed, FINAL_SAMPLES)
    log(stage="ship", epoch=epochs, **generator.metrics)
    return generator


@contextmanager
def frozen(clip: Backbone) -> Iterator[None]:
    """Disable the gradients of the model's parameters, which saves memory in the towers.

    A linear layer stores its input only for the gradient of its weight.
    """
    trainable = [parameter for parameter in clip.model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@torch.no_grad()
def generator_metrics(
    generator: Generator, labelled: LabelledFeatures, seed: int, count: int
) -> dict[str, float]:
    """Measure the quality of the generator and the collapse of its code.

    Args:
        generator: the generator.
        labelled: features of labelled images.
        seed: random seed of the samples.
        count: number of images, and of synthetic features of labelled and of named classes; if
            there are more classes, some are drawn.

    Returns:
        reconstruction: mean |x - x^|^2.
        kl: mean KL of the codes, in nats.
        active: latents whose mean varies over the images by more than 0.01.
        collapsed: `reconstruction` with code 0 for the same images.
        spread: variance within labelled classes, synthetic over real features; left out if no
            class has two images.
        cos_mean: mean cosine between the mean synthetic and the mean real feature of a labelled
            class.
        cos_text: mean cosine between the text feature and the mean real feature of such a class.
        agree: share of synthetic features of the other classes nearest to their own text feature;
            left out if there are no other classes.
    """
    x = labelled.x
    c = labelled.c
    rng = seeded_rng(seed, METRICS_KEY)
    mu, lambda_ = generator.encode(x[:, 0], c)
    rows = _draw_rows(torch.arange(len(c)), count, rng)
    z = code(mu[rows], lambda_[rows], normal_like(mu[rows], rng))
    distance = squared_distance(x[rows, 0], generator.decode_batched(z, c[rows]))
    classes, place = c[rows].unique(return_inverse=True)
    found: dict[str, Tensor | float] = {
        "reconstruction": distance.mean(),
        "kl": kl_to_normal(mu, lambda_).mean(),
        "active": (mu.var(0) > ACTIVE_VARIANCE).sum() if len(mu) > 1 else 0.0,
        "collapsed": squared_distance(x[rows, 0], generator.mean(classes)[place]).mean(),
    }
    base = _draw_rows(labelled.classes, max(1, count // 2), rng)
    c_synthetic = base.repeat_interleave(max(2, count // len(base)))
    kept = torch.isin(c, base)
    x_synthetic = generator.sample(c_synthetic, rng)[:, None]
    mean_synthetic, variance_synthetic = class_means_and_variance(x_synthetic, c_synthetic)
    mean_real, variance_real = class_means_and_variance(x[kept.to(x.device)], c[kept])
    if variance_real:
        found["spread"] = variance_synthetic / variance_real
    found["cos_mean"] = cosine_similarity(mean_synthetic, mean_real).mean()
    found["cos_text"] = cosine_similarity(generator.t[base], mean_real).mean()
    all_classes = torch.arange(len(generator.t))
    named = _draw_rows(all_classes[~torch.isin(all_classes, labelled.classes)], count, rng)
    if len(named):
        c_named = named.repeat_interleave(count // len(named))
        predicted = (generator.sample(c_named, rng) @ generator.t.T).argmax(1)
        found["agree"] = (predicted.cpu() == c_named).float().mean()
    return {name: float(value) for name, value in found.items()}


def _draw_rows(rows: Int[Tensor, " m"], count: int, rng: torch.Generator) -> Int[Tensor, " some"]:
    """Draw at most `count` rows without replacement, in their order."""
    return rows[torch.randperm(len(rows), generator=rng)[:count].sort().values]
