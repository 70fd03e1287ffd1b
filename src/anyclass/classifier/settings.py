"""`classifier.json`: the settings of a saved classifier, checked before they are used."""

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StrictBool,
    ValidationError,
)

from anyclass.backbone.options import Part
from anyclass.errors import AnyclassError, ModelError
from anyclass.files import read_json

SETTINGS = "classifier.json"
"""Name of the file."""

Space = Literal["projected", "pooled", "both"]
"""Feature space of a representation."""


class FeatureSettings(BaseModel):
    """What takes the place of a model."""

    model_config = ConfigDict(extra="forbid")
    width: PositiveInt
    """D, width of the features."""
    extra: NonNegativeInt
    """H, width of the further features; 0: there are none."""
    logit_scale: PositiveFloat
    """1 / tau, the factor on cosine similarities."""


class EditSettings(BaseModel):
    """Classes that were merged or split after the fit; the fields are those of `ClassEdits`."""

    model_config = ConfigDict(extra="forbid")
    members: list[list[NonNegativeInt]]
    divided: list[tuple[NonNegativeInt, NonNegativeInt]]
    gates: list[list[float]]


class Settings(BaseModel):
    """`classifier.json`; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1]
    """Version of the layout of both files."""
    method: str
    """Name of the method."""
    fields: dict[str, Any]
    """Its hyper-parameters."""
    part: Part | None
    """Trained part of the model; None: none."""
    beside: StrictBool = False
    """Whether features of the untrained model stand beside those of the trained one."""
    own: StrictBool = False
    """Whether the feature space is "both"."""
    head: dict[str, str | float] | None = None
    """Kind and numbers of a head in `FORMATS`; None: a cosine or linear head."""
    pooled: StrictBool = False
    """Whether the feature space is "pooled"."""
    scale: PositiveFloat | None = None
    """Inverse temperature of the head; None: that of the model."""
    classes: dict[str, Any]
    """The classes, as `Classes.to_json`."""
    model: str | None
    """Name of the base model; None: the classifier was fitted on features."""
    weights_sha256: str | None = None
    """Digest of the weights that were not trained; None: it was not computed."""
    preprocessing: dict[str, Any]
    """Preprocessing of the base model."""
    features: FeatureSettings | None = None
    """The features that it was fitted on; None: it has a base model."""
    edits: EditSettings | None = None
    """Edits of the classes, if there are any."""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; the optional ones only if there are some."""
        content = self.model_dump(mode="json")
        optional = ("features", "edits", "weights_sha256")
        return {k: v for k, v in content.items() if v is not None or k not in optional}

    @property
    def space(self) -> Space:
        """Feature space of the representation."""
        if self.pooled:
            return "pooled"
        return "both" if self.own else "projected"


def read_settings(path: Path) -> Settings:
    """Read and check the JSON file.

    Raises:
        ModelError: it is missing, damaged, or not of a classifier.
    """
    check_file(path)
    try:
        return Settings.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ModelError(
            f"{path} is not a classifier of anyclass: {place}: {first['msg']}"
        ) from error
    except AnyclassError as error:
        raise ModelError(str(error)) from error


def check_file(path: Path) -> None:
    """Refuse a missing file, a pipe and a device.

    Raises:
        ModelError: it is not a regular file.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing; give the folder `model` of a run")
