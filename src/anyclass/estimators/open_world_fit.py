"""Steps of the fit of `OpenWorldClassifier`: discovery, mixture, and both together as one model.

Equations and letters: `open_world.py`.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.estimators import num_classes
from anyclass.estimators.discovery import Discovered, discover, sample
from anyclass.estimators.discovery_expert import discovery_expert
from anyclass.estimators.linear import Linear
from anyclass.estimators.mixture import Mixture, MixtureSettings
from anyclass.estimators.negative_texts import NegativeTexts
from anyclass.estimators.open_world_inputs import Inputs
from anyclass.estimators.open_world_model import OpenWorldModel, quantiles
from anyclass.estimators.text_expert import confidence_temperature, text_anchors
from anyclass.log import Log

MAX_SCORES = 20_000
"""Maximum number of images whose outlier scores are kept as quantiles."""


def count_all(given: Inputs, seed: int, log: Log) -> num_classes.Count:
    """Estimate the number of all classes, from features that are not centred."""
    chosen = sample(given.labels, num_classes.MAX_IMAGES, seed)
    x, extra = given.rows.raw().x_and_extra(chosen.numpy())
    return num_classes.count_classes(x, given.labels[chosen], log, extra=extra, seed=seed)


def discover_all(given: Inputs, total: int, seed: int) -> Discovered:
    """Divide all images into `total` classes, the known ones first."""
    confidences = given.confidences if bool(given.texts.named.any()) else None
    return discover(given.rows, given.labels, total, confidences=confidences, seed=seed)


def mixture_of(
    given: Inputs,
    found: Discovered | None,
    settings: MixtureSettings,
    anchor: float,
    prior: float,
) -> Mixture:
    """The experts that tell the known classes apart, not fitted yet.

    Args:
        given: images and what is known of them.
        found: classes of all images, if some are unknown: images of these take no part.
        settings: hyper-parameters of the mixture.
        anchor: kappa.
        prior: k of the correction b, which needs a name of every class.
    """
    text = given.text_expert
    member = torch.ones(len(given.rows), dtype=torch.bool)
    if found is not None:
        member = found.labels < len(given.known)
    elif bool(given.texts.named.all()) and prior > 0:
        text = given.texts.corrected(given.rows, text, prior)
    anchors = text_anchors(given.rows, given.texts, anchor)
    return Mixture(given.rows, given.labels, text, anchors, settings, member)


def fitted_model(given: Inputs, mixture: Mixture, found: Discovered | None) -> OpenWorldModel:
    """All experts as linear functions of rows [x | h | 1], and the score of no class."""
    rows = given.rows
    known = rows.joined(*mixture.linear())
    if found is None:
        known = known / _temperature(given, mixture)
        model = OpenWorldModel(known, known[:0], torch.zeros(1))
    else:
        model = OpenWorldModel(_all_classes(mixture, found), known, torch.zeros(1))
    sample = rows.raw().stacked(rows.evenly_spaced(MAX_SCORES))
    if given.negatives is not None:
        model = _with_nouns(model, given.negatives, sample[:, : rows.depth], found)
    return replace(model, scores=quantiles(model.outlier_score(sample)))


def _temperature(given: Inputs, mixture: Mixture) -> float:
    """Temperature of the known classes: 1 where labels have chosen the weights."""
    if mixture.replicas.count:
        return 1.0
    zero_shot = given.logit_scale * given.texts.centred
    return confidence_temperature(given.rows, mixture.final_logits, zero_shot)


def _all_classes(mixture: Mixture, found: Discovered) -> Float[Tensor, "K E"]:
    """The expert that tells unknown classes from known ones."""
    rows = mixture.rows
    total = len(found.linear.weights)
    fold = mixture.replicas.fold
    shrinkage = mixture.settings.shrinkage
    expert = discovery_expert(rows, found.labels, mixture.labels, fold, total, shrinkage)
    return rows.joined(Linear(torch.zeros(total, rows.depth)), expert)


def _with_nouns(
    model: OpenWorldModel,
    negatives: NegativeTexts,
    x: Float[Tensor, "n D"],
    found: Discovered | None,
) -> OpenWorldModel:
    """The model with the log odds of names against nouns.

    Args:
        model: without nouns.
        negatives: names and nouns.
        x: unit features of a sample of the images.
        found: classes of all images, if some are unknown: their share is that of x below r_0.
    """
    model = replace(model, names=negatives.names, nouns=negatives.nouns)
    if found is None:
        return model
    unknown = (found.labels >= len(model.known)).double().mean()
    odds = negatives.odds(x).double()
    return replace(model, cut=odds.quantile(unknown).float()[None])
