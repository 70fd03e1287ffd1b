"""What is asked of a captioner, and what it gets to see."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.data import ImageDataset
from anyclass.log import Log


class CaptionRequest(NamedTuple):
    """One question about one image, or about several at once."""

    rows: tuple[int, ...]
    """Places of the images in their `ImageDataset`."""
    question: str
    """What to say of them: "Describe the object in the photo concisely, less than 20 words."."""
    noun: str
    """What the images show, in a word: "object"."""
    variant: int = 0
    """The how-manieth answer to the same question."""


class CaptionContext(NamedTuple):
    """What a captioner may look at."""

    dataset: ImageDataset
    """The N images."""
    clip: Backbone
    """The untrained model."""
    features: Float[Tensor, "N D"]
    """What it makes of them, of length one."""


@runtime_checkable
class Captioner(Protocol):
    """Answers questions about images."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """One sentence for each request; None where there is none."""
