"""Requests and answers of the server, as its OpenAPI description shows them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LONGEST_NAME = 200
"""Maximum number of characters of a class name."""

MOST_IDS = 100_000
"""Maximum number of images in one request."""

Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
"""Name of a class."""

Id = Annotated[int, Field(ge=0, lt=2**31)]
"""Row of an image."""


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
    """One or two sentences."""


class RequestBody(BaseModel):
    """A request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ResponseBody(BaseModel):
    """An answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Correction(RequestBody):
    """A label for some images."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_IDS)]
    """Rows of the images."""
    label: Name | None
    """Class name, of the run or new; null takes the label back."""


class ClassEdit(RequestBody):
    """An edit of the discovered classes of the run, without a new fit."""

    merge: list[tuple[Name, Name]] = []
    """Pairs of classes: the first becomes part of the second."""
    split: list[Name] = []
    """Classes to divide in two."""
    reject: list[Name] = []
    """Classes that are none."""
    rename: dict[Name, Name] = {}
    """Old name -> new name."""
    restore: list[Name] = []
    """Rejected classes to use again."""

    @property
    def title(self) -> str:
        """What is done, for people."""
        parts = [f"merged {a} into {b}" for a, b in self.merge]
        parts += [f"split {name}" for name in self.split]
        parts += [f"rejected {name}" for name in self.reject]
        parts += [f"renamed {a} to {b}" for a, b in self.rename.items()]
        parts += [f"restored {name}" for name in self.restore]
        return ", ".join(parts)


class Probability(ResponseBody):
    """A class and its probability."""

    label: str
    """Class name."""
    probability: float
    """Its probability, 0 to 1."""


class Near(ResponseBody):
    """An image of the run near a new one."""

    id: int
    """Row of the image, as in /thumbnails/{id}."""
    file_name: str
    """Its path below the folder of the run's images."""
    label: str
    """Its label: corrected, given or predicted."""
    known: bool
    """Whether a person gave this label."""
    similarity: float
    """Cosine similarity."""


class UploadPrediction(ResponseBody):
    """Prediction of one uploaded image."""

    file_name: str
    """Name of the uploaded file."""
    status: Literal["ok", "rejected"]
    """Whether the image could be read."""
    reason: str | None = None
    """Why it could not be read."""
    label: str | None = None
    """The most probable class; null if it was rejected."""
    score: float | None = None
    """Its probability."""
    familiarity: float | None = None
    """Share of the training images that are at least as unusual; near 0: perhaps none of the
    classes. Null if the method does not tell."""
    top: list[Probability] = []
    """The most probable classes, in order."""
    nearest: list[Near] = []
    """The nearest images of the run, if they were asked for."""


class UploadPredictions(ResponseBody):
    """Predictions in the order of the uploaded images."""

    predictions: list[UploadPrediction]
    """One for each image."""


class Ids(ResponseBody):
    """Images in an order."""

    ids: list[int]
    """Their rows."""


class Undone(Ids):
    """A step that was taken back."""

    title: str
    """What it was."""


class Useful(Ids):
    """Images to label next."""

    message: str
    """What is still being computed; empty when it is done."""


class Row(ResponseBody):
    """One image."""

    id: int
    """Its row."""
    file_name: str
    """Path below the folder of the images."""
    label: str | None
    """Label in the run, predicted or given."""
    correction: str | None
    """Label by a person on this page; empty: the given label was taken back."""
    status: str
    """`given`, `ok` or `rejected`."""
    score: float | None
    """Probability of the label."""
    rank: int | None
    """Its place by confidence: 1 is the least sure; null where the label was given."""
    confidence: float | None
    """The score, reduced for an image that is unlike the training images."""
    margin: float | None
    """Probability of the label minus that of the runner-up."""
    runner_up: str | None
    """The second class."""
    familiarity: float | None
    """Share of the training images that are at least as unusual."""
    zero_shot_label: str | None
    """Class before adaptation."""
    zero_shot_score: float | None
    """Its probability."""
    opinion: str | None
    """Class by a fit without the label of this image."""
    opinion_score: float | None
    """Its probability."""
    label_quality: float | None
    """Probability of the given label by the same fit."""
    suspicious: bool
    """Whether other images contradict the given label."""
    top: list[Probability]
    """The most probable classes; empty until they are computed."""


class RowList(ResponseBody):
    """Some images."""

    rows: list[Row]
    """One for each id."""


class ClassRow(ResponseBody):
    """One class."""

    name: str
    """Its name."""
    kind: str
    """`labelled`, `named`, `unknown` (discovered), `rejected` or `new` (from a correction)."""
    count: int
    """Images with this label now."""
    suggested: str | None
    """Suggested name of a discovered class that nobody has named."""
    hint: str | None
    """How sound a discovered class is, and what to do with it."""


class TrainingProgress(ResponseBody):
    """A training that was started from the page."""

    state: Literal["idle", "running", "finished", "failed", "cancelled"]
    """What became of it."""
    run: str | None
    """Name of the run folder that it writes."""
    line: str
    """Its last line."""
    done: int | None
    """Steps done in this stage."""
    total: int | None
    """Steps of this stage."""


class SessionState(ResponseBody):
    """The run and what can be done."""

    run: str
    """Run folder."""
    name: str
    """Its name."""
    images: int
    """Images that could be read."""
    rejected: int
    """Images that could not be read."""
    checked: int
    """Images with a correction."""
    classes: list[ClassRow]
    """The classes."""
    undo: str | None
    """What undo takes back; null: nothing."""
    suspicious: int
    """Labels that other images contradict."""
    ranked: int
    """Images with a rank, if scores are an order and no probabilities; else 0."""
    model: str
    """What is being computed, or why it cannot be; empty when all is ready."""
    training: TrainingProgress
    """The training."""


class Accuracies(ResponseBody):
    """Accuracies of two runs on the same labels."""

    before: float
    """Accuracy of the earlier run."""
    after: float
    """Accuracy of the new run."""
    n: int
    """Number of labels."""


class OwnAccuracy(ResponseBody):
    """Accuracy of a run on its own labels."""

    accuracy: float
    """Share that is right."""
    n: int
    """Number of labels."""


class Comparison(ResponseBody):
    """Before and after a training."""

    images: int
    """Images that both runs predicted."""
    changed: int
    """Images with another label now."""
    score: dict[Literal["before", "after"], float | None]
    """Mean scores of these images."""
    labels: dict[Literal["kept", "new"], int | None]
    """Labels kept from the earlier run, and new ones."""
    unseen: Accuracies | None
    """On labels that neither run was trained on."""
    corrected: Accuracies | None
    """On the new labels, each predicted without itself."""
    accuracy: dict[Literal["before", "after"], OwnAccuracy | None]
    """Scores of each run on its own labels."""
