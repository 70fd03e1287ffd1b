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
    extra: NonNegativeInt
    logit_scale: PositiveFloat


class EditSettings(BaseModel):
    """Classes that were merged or split after the fit."""

    model_config = ConfigDict(extra="forbid")
    members: list[list[NonNegativeInt]]
    divided: list[tuple[NonNegativeInt, NonNegativeInt]]
    gates: list[list[float]]


class Settings(BaseModel):
    """`classifier.json`; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")
    format: Literal[1]
    method: str
    fields: dict[str, Any]
    part: Part | None
    beside: StrictBool = False
    own: StrictBool = False
    head: dict[str, str | float] | None = None
    pooled: StrictBool = False
    scale: PositiveFloat | None = None
    classes: dict[str, Any]
    model: str | None
    weights_sha256: str | None = None
    preprocessing: dict[str, Any]
    features: FeatureSettings | None = None
    edits: EditSettings | None = None

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
    """Read and check the JSON file."""
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
    """Refuse a missing file, a pipe and a device."""
    if not path.is_file():
        raise ModelError(f"{path} is missing; give the folder `model` of a run")
