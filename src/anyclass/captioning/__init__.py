"""Captioners: images and a question in, one sentence each out.

`vocabulary` combines the words with the most similar text features. The others ask a multimodal
language model: `endpoint` over HTTP, `transformers` in this process, `batch` through files. `file`
reads texts that were written elsewhere.
`dispatch` puts their questions, and `response_cache` keeps the answers.
"""

from typing import Annotated

from pydantic import Field

from anyclass.captioning.batch import BatchFiles
from anyclass.captioning.caption_file import CaptionFile
from anyclass.captioning.captioner import CaptionContext, Captioner, CaptionRequest
from anyclass.captioning.collage import collage, image, jpeg, settings
from anyclass.captioning.cost import CostEstimate
from anyclass.captioning.dispatch import Failure, Outcome, answered, side_by_side
from anyclass.captioning.endpoint import Endpoint
from anyclass.captioning.transformers import Transformers
from anyclass.captioning.vocabulary import Vocabulary

__all__ = [
    "AnyCaptioner",
    "BatchFiles",
    "CAPTIONERS",
    "CaptionContext",
    "CaptionFile",
    "CaptionRequest",
    "Captioner",
    "CostEstimate",
    "Endpoint",
    "Failure",
    "Outcome",
    "Transformers",
    "Vocabulary",
    "answered",
    "collage",
    "image",
    "jpeg",
    "settings",
    "side_by_side",
]

AnyCaptioner = Annotated[
    Vocabulary | Endpoint | Transformers | BatchFiles | CaptionFile, Field(discriminator="kind")
]
"""Any captioner; `kind` says which."""

CAPTIONERS = {
    "vocabulary": Vocabulary,
    "endpoint": Endpoint,
    "transformers": Transformers,
    "batch": BatchFiles,
    "file": CaptionFile,
}
"""Name on the command line -> its class."""
