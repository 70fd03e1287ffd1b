"""Models that are worth a try, with their size, accuracy and licence."""

from typing import NamedTuple

from anyclass.backbone.loading import STARTER


class Choice(NamedTuple):
    """A model that is worth a try."""

    model: str
    """What `--model` takes."""
    parameters: float
    """Millions of parameters, both encoders."""
    gflops: float
    """Billions of operations for one image."""
    imagenet: float | None
    """Zero-shot accuracy on ImageNet in per cent, as published."""
    licence: str
    """Licence of the weights, as published."""
    note: str
    """What it is good for."""


REFERENCE = Choice("ViT-B-32/laion2b_s34b_b79k", 151, 8.8, 66.6, "MIT", "quick, on a CPU too")
"""The model whose image encoder is timed, with random weights."""

RECOMMENDED = (
    Choice(STARTER, 29, 0.8, None, "see its card", "installed; for tests and first tries"),
    REFERENCE,
    Choice("ViT-B-16/datacomp_xl_s13b_b90k", 150, 35.1, 73.5, "MIT", "a good start for real work"),
    Choice("ViT-B-16-SigLIP2/webli", 375, 35.4, 78.2, "Apache-2.0", "names in many languages"),
    Choice("ViT-L-14/datacomp_xl_s13b_b90k", 428, 162.0, 79.2, "MIT", "slower, better"),
    Choice("ViT-SO400M-14-SigLIP2/webli", 1135, 220.4, 83.2, "Apache-2.0", "best here, with a GPU"),
    Choice("hf-hub:imageomics/bioclip", 150, 35.1, None, "MIT", "animals, plants, fungi"),
    Choice("hf-hub:imageomics/bioclip-2", 428, 162.0, None, "see its card", "the same, larger"),
)
"""Sizes and operations: open_clip's profile. Accuracies: open_clip's results, SigLIP 2's page."""
