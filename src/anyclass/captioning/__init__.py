"""Describers: pictures and a question in, one sentence each out.

`vocabulary` writes with the words that the backbone finds nearest. The others ask a language model
that sees pictures: `endpoint` behind an address, `transformers` in this process, `batch` through
files. Their answers go through `asking` and stay in the `journal`.
"""

from typing import Annotated

from pydantic import Field

from anyclass.captioning.batch import Batch
from anyclass.captioning.captioner import Describer, Request, Scene
from anyclass.captioning.collage import collage, jpeg, picture, preparation
from anyclass.captioning.cost import Estimate
from anyclass.captioning.dispatch import Failure, Outcome, answered, side_by_side
from anyclass.captioning.endpoint import Endpoint
from anyclass.captioning.transformers import Transformers
from anyclass.captioning.vocabulary import Vocabulary

__all__ = [
    "DESCRIBERS",
    "AnyDescriber",
    "Batch",
    "Describer",
    "Endpoint",
    "Estimate",
    "Failure",
    "Outcome",
    "Request",
    "Scene",
    "Transformers",
    "Vocabulary",
    "answered",
    "collage",
    "jpeg",
    "picture",
    "preparation",
    "side_by_side",
]

AnyDescriber = Annotated[Vocabulary | Endpoint | Transformers | Batch, Field(discriminator="kind")]
"""One of them, told apart by `kind`."""

DESCRIBERS = {
    "vocabulary": Vocabulary,
    "endpoint": Endpoint,
    "transformers": Transformers,
    "batch": Batch,
}
"""Name on the command line -> its class."""
