"""`Workload`: what a fit needs and costs, for `plan` and for messages before a fit."""

from dataclasses import dataclass

from anyclass.backbone import Part
from anyclass.captioning import CostEstimate
from anyclass.training.two_views import TwoViewTuning


@dataclass(frozen=True)
class Workload:
    """Needs and cost of a fit, in addition to embedding the test views and the class prompts."""

    trains: Part | None = None
    """Trained part of the encoders; None: none."""
    views: int = 0
    """Cached augmented views per image."""
    pairs: TwoViewTuning | None = None
    """Settings of training on pairs of views; `plan` estimates its time for the starter only."""
    text_epochs: int = 0
    """Epochs of pairs for the text embedding synthesizer before that (GET)."""
    captions: CostEstimate = CostEstimate()
    """Upper bound of the cost of captions."""
    needs_labels: bool = False
    """Whether an image must have a label."""
    least_names: int = 0
    """Smallest number of classes with a name."""
