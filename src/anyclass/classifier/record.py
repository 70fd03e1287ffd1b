"""Record of a fit: labels, texts and metrics, for the run folder and for inspection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    import anyclass.classifier.classifier


@runtime_checkable
class Artefact(Protocol):
    """Additional file of a fitted model, not needed for prediction."""

    def save(self, folder: Path) -> None:
        """Write the file into the model folder of a run."""


@dataclass(frozen=True)
class FitRecord:
    """Labels, texts and metrics of one fit, not saved with the model."""

    trained_on: Sequence[str] = ()
    """Files whose labels were trained on; scores leave them out if there are other labels."""
    metrics: Mapping[str, int | float] = field(default_factory=dict)
    """Metrics of the fit by name; `facts` in `metrics.json`."""
    descriptions: Sequence[Mapping[str, str]] = ()
    """Texts used by the method, one row each, for `descriptions.jsonl`."""
    captioned_by: str = ""
    """Language model that wrote texts of images; empty if there was none."""
    zero_shot_labels: Sequence[int] = ()
    """Class of each image by the model before training."""
    predictions: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Branch of the method -> its predicted class of each image."""
    baselines: Mapping[str, "anyclass.classifier.classifier.Classifier"] = field(
        default_factory=dict
    )
    """Baselines that the result is compared with, by name."""
    artefacts: Sequence[Artefact] = ()
    """Additional files for the model folder."""
    pseudo_text: Float[Tensor, "N D"] | None = None
    """Synthesised text features of the images (GET)."""
    context: Float[Tensor, "L W"] | None = None
    """Context vectors before the class name (CoOp)."""
    contributions: Mapping[str, float] = field(default_factory=dict)
    """Expert (text, labels, images) -> its share of the logits (open-world)."""
    opinions: Sequence[int] = ()
    """Cross-validated class of each labelled image, -1 without a label (open-world)."""
    opinion_scores: Sequence[float] = ()
    """Probability of this class, NaN without a label (open-world)."""
    label_quality: Sequence[float] = ()
    """Cross-validated probability of each label, NaN without a label (open-world)."""
    suspicious: Sequence[int] = ()
    """Indices of labels that the other images contradict (open-world)."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """Expected accuracy of unlabelled images, where classes are unknown, and how it was found:
    accuracy, temperature; by labelled classes that were treated as unknown (open-world) also
    calibration_error, images, classes; without these it is the agreement of clusterings."""
    inertia: float | None = None
    """Sum of squared distances to the nearest centre (k-means)."""

    def write_artefacts(self, folder: Path) -> None:
        """Write all artefacts into the model folder of a run."""
        for artefact in self.artefacts:
            artefact.save(folder)
