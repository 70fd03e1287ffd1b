"""The captioner protocol: its requests and its context."""

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
    """Rows of the images in their `ImageDataset`."""
    question: str
    """For example "Describe the object in the photo concisely, less than 20 words."."""
    noun: str
    """Noun for what the images show, such as "object"."""
    variant: int = 0
    """Sample index; 0 is the first answer to the question."""


class CaptionContext(NamedTuple):
    """Images and model that a captioner may use."""

    dataset: ImageDataset
    """The N images."""
    clip: Backbone
    """The untrained model."""
    features: Float[Tensor, "N D"]
    """Unit image features by `clip`."""


@runtime_checkable
class Captioner(Protocol):
    """Answers questions about images."""

    def describe(
        self, requests: Sequence[CaptionRequest], context: CaptionContext, log: Log
    ) -> list[str | None]:
        """Return one sentence per request; None where there is no answer."""
