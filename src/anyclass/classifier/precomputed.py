"""`Precomputed`: the representation of a classifier that gets features instead of images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.classifier.representation import Representation
from anyclass.classifier.settings import Space
from anyclass.data import ImageDataset, Rejection
from anyclass.data.feature_tables import FeatureTable
from anyclass.errors import RequestError
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.extract import stack_features
from anyclass.features.precomputed import AnyFeatures, PrecomputedFeatures
from anyclass.features.store import FeatureStore
from anyclass.features.stream import StreamResources
from anyclass.log import Log


@dataclass(frozen=True, eq=False)
class Precomputed:
    """Rows of features that were computed before, in the spaces of `Representation`."""

    dimensions: int
    """D, width of image features in the space shared with texts."""
    extra_width: int
    """H, width of the features before the projection; 0: there are none."""
    texts: Float[Tensor, "J D"]
    """Unit text features of the first J classes; NaN: the class has none."""
    logit_scale: float
    """1 / tau, the factor on cosine similarities."""
    space: Space = "both"
    """Feature space."""
    device: torch.device = torch.device("cpu")
    """Device of the head."""

    @property
    def part(self) -> None:
        """Trained part of a model: none."""
        return None

    @property
    def width(self) -> int:
        """E, number of columns."""
        widths = {"projected": self.dimensions, "pooled": self.extra_width}
        return widths.get(self.space, self.dimensions + self.extra_width + 1)

    @property
    def comparable_width(self) -> int | None:
        """First columns that images are compared by; None: all."""
        return self.dimensions if self.space == "both" else None

    def blocks(self, table: FeatureTable) -> Iterator[Float[Tensor, "n E"]]:
        """Rows in blocks.

        Raises:
            RequestError: the features have another width, or a value is not finite.
        """
        self.check(table)
        for x, h in table.blocks():
            yield self._rows(torch.from_numpy(x), torch.from_numpy(h)).to(self.device)

    def _rows(self, x: Float[Tensor, "n D"], h: Float[Tensor, "n H"]) -> Float[Tensor, "n E"]:
        if self.space == "projected":
            return x
        if self.space == "pooled":
            return normalize(h, dim=1)
        return stack_features(x, h[:, : self.extra_width])

    def check(self, table: FeatureTable) -> None:
        """Refuse features of another width.

        Raises:
            RequestError: the widths differ, or further features are missing.
        """
        width = int(table.x.shape[1])
        if width != self.dimensions:
            raise RequestError(
                f"{table.source} has features of width {width}, the run was fitted on features of "
                f"width {self.dimensions}: give features of the same model"
            )
        if self.space == "projected" or not self.extra_width:
            return
        extra = 0 if table.extra is None else int(table.extra.shape[1])
        if extra != self.extra_width:
            found = f"of width {extra}" if extra else "not"
            raise RequestError(
                f"the run also needs the features before the projection, of width "
                f"{self.extra_width}; they are {found} in {table.source}: write them with "
                "`anyclass embed --extra`, or give an array `extra`"
            )

    def stream(
        self, dataset: ImageDataset, resources: StreamResources = StreamResources()
    ) -> Iterator[tuple[list[int], Float[Tensor, "n E"], list[Rejection]]]:
        """Refuse images: there is no model that reads them.

        Raises:
            RequestError: always.
        """
        raise RequestError(NO_MODEL)


AnyRepresentation = Representation | Precomputed
"""Rows of images, or of features that were computed before."""

NO_MODEL = (
    "the run was fitted on features, and has no model that reads images: embed the images with the "
    "same model and give the features (--features FILE)"
)
"""Error of a classifier of features that is given images."""


def represent(data: AnyFeatures, space: Space) -> AnyRepresentation:
    """Representation of the images by a model that is not changed."""
    if isinstance(data, FeatureStore):
        return Representation((data.clip,), space=space)
    width = int(data.table.x.shape[1])
    return Precomputed(width, data.extra_width, data.texts, data.logit_scale, space)


def of_features(representation: AnyRepresentation) -> Precomputed:
    """The representation for features of the same model, which were computed before.

    Class texts are left out: they take no part in predictions.

    Raises:
        RequestError: the features of the untrained model are not what the classifier needs.
    """
    if isinstance(representation, Precomputed):
        return representation
    if representation.part is not None or len(representation.towers) > 1:
        raise RequestError(
            "the run trained the model, so that features of the untrained model do not fit: give "
            "the images (--images DIR)"
        )
    clip = representation.clip
    hidden = clip.trunk(clip.synthetic(), "head")
    dimensions = clip.tail(hidden, "head").shape[1]
    extra = clip.pooled(hidden, "head").shape[1]
    none = torch.zeros(0, dimensions)
    scale = float(clip.logit_scale.detach())
    return Precomputed(dimensions, extra, none, scale, representation.space, clip.device)


def feature_rows(
    representation: AnyRepresentation, data: AnyFeatures, log: Log
) -> Iterator[Float[Tensor, "n E"]]:
    """Rows of all images, in blocks.

    Raises:
        RequestError: the classifier needs images, or other features.
    """
    if isinstance(data, PrecomputedFeatures):
        if isinstance(representation, Representation):
            raise RequestError("the classifier needs images, not features")
        yield from representation.blocks(data.table)
    elif isinstance(representation, Precomputed):
        raise RequestError(NO_MODEL)
    elif representation.part is None and representation.towers == (data.clip,):
        yield _untrained_rows(representation.space, data, log)
    else:
        cached = data.embed(Embedding(cached_part(representation.part)), log)
        yield representation.of(data.dataset, cached)


def _untrained_rows(space: Space, data: FeatureStore, log: Log) -> Float[Tensor, "N E"]:
    """Rows of all images by the untrained model, from the features of the store."""
    if space == "pooled":
        return normalize(data.backbone_features("head", log), dim=-1)
    x = data.image_features("head", log)
    return x if space == "projected" else stack_features(x, data.backbone_features("head", log))
