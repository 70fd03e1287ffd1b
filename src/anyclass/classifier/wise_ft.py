"""WiSE-FT: average of the weights before and after fine-tuning.

Wortsman et al., CVPR 2022, arXiv 2109.01903.

    theta(a) = (1 - a) theta_0 + a theta_1                 every trained parameter, both towers
    w_c(a)   = norm( g_theta(a)(t(c)) )                    classes that are class texts (FLYP)
    p_c(a)   = norm( (1 - a) p_c(start) + a p_c(end) )     prototypes (LatteCLIP, ReCLIP)
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.precomputed import NO_MODEL, Precomputed
from anyclass.classifier.representation import concat_towers
from anyclass.errors import RequestError
from anyclass.features.text import class_features

TOLERANCE = 1e-4
"""Largest difference between values of the same text feature on two machines."""


@torch.no_grad()
def wise_ft(clip: Backbone, classifier: Classifier, share: float = 0.5) -> Classifier:
    """Interpolate the weights of a classifier with those of the untrained model.

    The weights of the head are text features if they equal those of the trained text tower, and
    prototypes otherwise.

    Args:
        clip: the model before training.
        classifier: the fitted classifier, which is not changed.
        share: a; 0 is zero-shot, 1 is exactly `classifier`.

    Raises:
        RequestError: `share` is not between 0 and 1, `clip` is another model, or the head has
            neither text features nor prototypes.
    """
    if not 0 <= share <= 1:
        raise RequestError(f"share {share}: give a number between 0 and 1")
    representation = classifier.representation
    if isinstance(representation, Precomputed):
        raise RequestError(NO_MODEL)
    if clip.model_id != classifier.clip.model_id:
        raise RequestError(
            f"the classifier was fitted on {classifier.clip.model_id}, not {clip.model_id}"
        )
    part = representation.part
    if part is None:
        return classifier
    head = classifier.head
    if not isinstance(head, CosineHead):
        raise RequestError(f"{classifier.method} has no text features or prototypes to interpolate")
    interpolated = classifier.clip.copy()
    start = clip.parameters(part)
    for name, theta in interpolated.parameters(part).items():
        theta.copy_((1 - share) * start[name] + share * theta)  # theta(a)
    prompts = classifier.classes.all_prompts
    template = classifier.template
    after = class_features(classifier.clip, prompts, [template])
    same_shape = after.shape == head.weights.shape
    if same_shape and torch.allclose(after, head.weights, rtol=0, atol=TOLERANCE):
        weights = class_features(interpolated, prompts, [template])  # w_c(a)
    else:
        before = class_features(clip, prompts, [template])
        weights = mix_prototypes(before, head.weights, share)  # p_c(a)
    scale = head.scale
    if isinstance(scale, Tensor):
        scale = interpolated.logit_scale.detach()
    return replace(
        classifier,
        representation=representation.with_clip(interpolated),
        head=CosineHead(weights, scale),
        fields={**classifier.fields, "wise_ft": share},
    )


def mix_prototypes(
    start: Float[Tensor, "C D"], end: Float[Tensor, "C E"], share: float
) -> Float[Tensor, "C E"]:
    """Interpolated prototypes p_c(a); `start` is repeated if `end` is for two towers."""
    start = concat_towers([start] * (end.shape[1] // start.shape[1]))
    mixed = (1 - share) * start + share * end
    return normalize(mixed, dim=-1) if 0 < share < 1 else mixed  # both ends are exact
