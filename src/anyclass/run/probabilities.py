"""`probabilities.safetensors`: probabilities of the training images, so that classes can be edited.

    probabilities   (M, K) of the classes as they were fitted; M readable images, in table order
    gates           (M, G) g of each gate of a split, see `class_edits.py`

Runs without discovered classes, very large runs and runs of earlier versions do not have the file.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from anyclass.classifier.class_edits import ClassEdits
from anyclass.classifier.edited_probabilities import edited_probabilities
from anyclass.files import write_tensors

MOST_NUMBERS = 2**26
"""Maximum number of numbers that are stored (256 MB)."""


class ImageProbabilities(NamedTuple):
    """Probabilities of M images before any edit of classes, and the gates of splits."""

    fitted: Float[Tensor, "M K"]
    """Probabilities of the classes as they were fitted."""
    gates: Float[Tensor, "M G"]
    """g of each gate."""

    def of(self, edits: ClassEdits) -> Float[Tensor, "M C"]:
        """Probabilities of the edited classes."""
        return edited_probabilities(edits, self.fitted, self.gates)

    def fits(self, images: int, edits: ClassEdits) -> bool:
        """Whether these are the probabilities of so many images before these edits."""
        k = (images, edits.fitted)
        return self.fitted.shape == k and self.gates.shape[1] >= len(edits.gates)


def write_probabilities(path: Path, found: ImageProbabilities) -> bool:
    """Write the file, unless it would be too large; return whether it was written."""
    if found.fitted.numel() + found.gates.numel() > MOST_NUMBERS:
        return False
    write_tensors(path, {"probabilities": found.fitted, "gates": found.gates})
    return True


def read_probabilities(path: Path, images: int, edits: ClassEdits) -> ImageProbabilities | None:
    """Read the file; None if it is missing, damaged or of another fit."""
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        found = ImageProbabilities(tensors["probabilities"].clone(), tensors["gates"].clone())
    except (SafetensorError, OSError, ValueError, KeyError):
        return None
    well_formed = all(t.ndim == 2 and t.dtype == torch.float32 for t in found)
    finite = well_formed and all(bool(torch.isfinite(t).all()) for t in found)
    return found if finite and found.fits(images, edits) else None
