"""Keys and types that the JSON files of a run must have; further keys are allowed."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from anyclass.files import MANIFEST


def _usable(text: str) -> str:
    """A text that may be a path.

    Raises:
        ValueError: it has a NUL, which no path has.
    """
    if "\0" in text:
        raise ValueError("there is a NUL in it")
    return text


FORMERLY = "pictures"
"""What runs of earlier versions call the number of images of a class."""


Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of images or classes, that floats hold exactly."""

Text = Annotated[str, AfterValidator(_usable)]


Place = Annotated[str, Field(min_length=1), AfterValidator(_usable)]
"""Where images or a model are."""


class Schema(BaseModel):
    """Keys that a command needs; no type is converted into another."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Again(Schema):
    method: Annotated[list[Text], Field(min_length=1)]
    options: list[Text] = []


class _Config(Schema):
    images: Place | None
    features: Text | None = None
    model: Place | None
    asked: str
    method: str
    why: list[str]
    fields: dict[str, Any]
    version: str
    seed: int
    again: _Again | None = None
    device: str = "cpu"
    engine: str = "auto"
    decoding: Literal["full", "reduced"] = "full"
    allow_pickle: bool = False
    template: str = ""
    holdout: float = 0.0
    names: Text | None = None

    @model_validator(mode="after")
    def _of_images_or_of_features(self) -> "_Config":
        """A run of images has a model; `images` may be taken out before a run is passed on."""
        if self.images is not None and self.model is None:
            raise ValueError("images without a model")
        return self


class _Weights(Schema):
    id: Text
    file: str | None = None
    weights_sha256: str


class _Environment(Schema):
    model: _Weights
    started: str
    packages: dict[str, str]


class _ClassScore(Schema):
    name: str
    n: Count
    accuracy: float | None


class _Scores(Schema):
    accuracy: float
    mean_per_class: float
    n: Annotated[Count, Field(gt=0)]
    per_class: list[_ClassScore]
    sliced: dict[str, Any] | None = None
    mixed: dict[str, Any] | None = None


class _Majority(Schema):
    name: str | None = None
    accuracy: float
    mean_per_class: float
    n: int


class _Seconds(Schema):
    total: Annotated[float, Field(ge=0)]


class _Expected(Schema):
    mean_score: float | None
    unlabelled: Count
    accuracy: float | None = None
    classes: int | None = None
    images: int | None = None
    calibration_error: float | None = None
    temperature: float | None = None


class _Round(Schema):
    before: float
    after: float
    n: Count


class _SecondRound(Schema):
    kept: Count
    new: Count
    unseen: _Round | None
    corrected: _Round | None


class _Discovery(Schema):
    empty: list[str]


class _Counts(Schema):
    true: list[Count]
    predicted: list[Count]
    count: list[Count]


class _Why(Schema):
    why: str


class _Metrics(Schema):
    n: Count
    rejected: Count
    seconds: _Seconds
    warnings: list[str]
    zero_shot: _Scores | None
    zero_shot_ensemble: _Scores | None
    adapted: _Scores | None
    changed: float | None
    confusion: list[list[Count]] | None
    confusion_counts: _Counts | None = None
    facts: dict[str, float]
    controls: dict[str, _Scores | None] = {}
    majority: _Majority | None = None
    scored_on: str | None = None
    scored: int | None = None
    contributions: dict[str, float] | None = None
    classes_estimated: _Why | None = None
    suspicious: int | None = None
    expected: _Expected | None = None
    second_round: _SecondRound | None = None
    discovery: _Discovery | None = None


class _Quality(Schema):
    agreement: float | None
    nearest: str | None
    separation: float | None
    verdict: str
    hint: str


class NamedClass(Schema):
    """A row of `naming.json`."""

    index: int
    name: str
    kind: str
    suggested: str | None
    runners_up: list[str]
    confidence: str | None
    images: Count = Field(validation_alias=AliasChoices("images", FORMERLY))
    typical: list[Text]
    borderline: list[Text]
    quality: _Quality | None = None


class _Naming(Schema):
    classes: list[NamedClass]
    hit_rate_known: float | None = None
    hit_rate_known_top: float | None = None
    known: int | None = None
    threshold: float | None = None
    words: int | None = None


class _Manifest(Schema):
    files: dict[str, str]


class Description(Schema):
    """A line of `descriptions.jsonl`."""

    kind: str
    text: str | None
    weight: float | None = None
    file_name: Text | None = None
    files: list[Text] | None = None


SCHEMAS: Mapping[str, type[Schema]] = {
    "config.json": _Config,
    "environment.json": _Environment,
    "metrics.json": _Metrics,
    "naming.json": _Naming,
    MANIFEST: _Manifest,
}
"""JSON file of a run -> what it must hold."""
