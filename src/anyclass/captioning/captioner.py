"""What is asked of a describer, and what it gets to see."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.data import Photos
from anyclass.log import Log


class Request(NamedTuple):
    """One question about one picture, or about several at once."""

    rows: tuple[int, ...]
    """Places of the pictures in their `Photos`."""
    question: str
    """What to say of them: "Describe the object in the photo concisely, less than 20 words."."""
    noun: str
    """What the pictures show, in a word: "object"."""
    variant: int = 0
    """The how-manieth answer to the same question."""


class Scene(NamedTuple):
    """What a describer may look at."""

    photos: Photos
    """The N pictures."""
    clip: Backbone
    """The untrained model."""
    features: Float[Tensor, "N D"]
    """What it makes of them, of length one."""


@runtime_checkable
class Describer(Protocol):
    """Answers questions about pictures."""

    def describe(self, requests: Sequence[Request], scene: Scene, log: Log) -> list[str | None]:
        """One sentence for each request; None where there is none."""
