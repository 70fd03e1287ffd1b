"""WiSE-FT: half way between a model before and after fine-tuning is often better than either.

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
from anyclass.errors import RequestError
from anyclass.features.extract import side_by_side
from anyclass.features.text import PLAIN, class_features

SAME = 1e-4
"""Largest difference between numbers of one text feature on two machines."""


@torch.no_grad()
def wise_ft(clip: Backbone, classifier: Classifier, share: float = 0.5) -> Classifier:
    """The classifier whose weights lie `share` of the way from the untrained model to `classifier`.

    Whether classes are texts or prototypes shows in the numbers: texts are what the trained text
    tower says of the class names now.

    Args:
        clip: the model before training.
        classifier: what a method made of it; it is left as it is.
        share: a; 0 is zero-shot, 1 is `classifier`, to the bit.

    Raises:
        RequestError: `share` is not between 0 and 1, or `clip` is another model.
    """
    if not 0 <= share <= 1:
        raise RequestError(f"share {share}: give a number between 0 and 1")
    if clip.model_id != classifier.clip.model_id:
        raise RequestError(f"{classifier.clip.model_id} was trained, not {clip.model_id}")
    if classifier.part is None:
        return classifier
    mixed = classifier.clip.copy()
    start, end = clip.parameters(classifier.part), mixed.parameters(classifier.part)
    for name, theta in end.items():
        theta.copy_((1 - share) * start[name] + share * theta)
    template = str(classifier.fields.get("template", PLAIN))
    before, after, between = (
        class_features(model, classifier.classes.prompts, [template])
        for model in (clip, classifier.clip, mixed)
    )
    shaped = after.shape == classifier.weights.shape
    are_texts = shaped and torch.allclose(after, classifier.weights, rtol=0, atol=SAME)
    weights = between if are_texts else mix_prototypes(before, classifier.weights, share)
    fields = {**classifier.fields, "wise_ft": share}
    return replace(classifier, clip=mixed, weights=weights, fields=fields)


def mix_prototypes(
    start: Float[Tensor, "C D"], end: Float[Tensor, "C E"], share: float
) -> Float[Tensor, "C E"]:
    """p_c(a), unit; `start` stands twice beside itself where `end` is for two towers."""
    start = side_by_side([start] * (end.shape[1] // start.shape[1]))
    mixed = (1 - share) * start + share * end
    return normalize(mixed, dim=-1) if 0 < share < 1 else mixed  # the ends stay to the bit
