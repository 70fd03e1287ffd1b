"""Describers: pictures and a question in, one sentence each out.

`vocabulary` writes with the words that the backbone finds nearest. The others ask a language model
that sees pictures: `endpoint` behind an address, `transformers` in this process, `batch` through
files. Their answers go through `asking` and stay in the `journal`.
"""

from typing import Annotated

from pydantic import Field

from anyclass.describe.asking import Failure, Outcome, answered, side_by_side
from anyclass.describe.batch import Batch
from anyclass.describe.collage import collage, jpeg, picture, preparation
from anyclass.describe.cost import Estimate
from anyclass.describe.endpoint import Endpoint
from anyclass.describe.request import Describer, Request, Scene
from anyclass.describe.transformers import Transformers
from anyclass.describe.vocabulary import Vocabulary

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
