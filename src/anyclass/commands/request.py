"""Request: the flags of the command line and the arguments of `fit`."""

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from tyro.conf import arg

from anyclass.backbone import Backbone, EngineName, Precision
from anyclass.backbone.device import torch_device
from anyclass.backbone.loading import absolute_id
from anyclass.captioning import CAPTIONERS
from anyclass.commands.chosen_method import name_of
from anyclass.commands.notices import notices
from anyclass.commands.option_owners import check_owner, check_owners
from anyclass.commands.precomputed import ClassKnowledge, precomputed
from anyclass.data import ImageDataset
from anyclass.data.classes import listed
from anyclass.data.feature_tables import read_class_texts, read_features
from anyclass.data.image import Decoding
from anyclass.data.inputs import ImageSource
from anyclass.data.label_inputs import read_images
from anyclass.errors import AnyclassError, RequestError
from anyclass.features.precomputed import PrecomputedFeatures
from anyclass.features.text import PLAIN
from anyclass.methods import METHODS, Method, Workload
from anyclass.naming.words import read_words
from anyclass.run.earlier import EarlierRun

SOURCES = (
    "images",
    "features",
    "extra",
    "class_text",
    "classes",
    "labels",
    "from_run",
    "names",
)
"""Fields that name a file or a folder, or hold an array."""

FILE = arg(metavar="FILE", constructor=Path)
"""A flag for a file, where Python also takes an array."""

FOLDER = arg(metavar="PATH", constructor=Path)
"""A flag for a folder of images, where Python also takes a list, arrays or a table."""

PLACE = arg(metavar="PATH", constructor=str)
"""A flag for a path or an address such as s3://bucket/photos, which is no path."""


def split_names(classes: Any) -> Any:
    """Names that commas separate (`daisy,rose,tulip`), where there is no such file."""
    is_list = isinstance(classes, Path) and "," in str(classes)
    if is_list and not os.path.exists(classes):  # noqa: PTH110 (never raises: a list may be long)
        return tuple(name.strip() for name in str(classes).split(",") if name.strip())
    return classes


@dataclass(frozen=True, config={"extra": "forbid", "use_attribute_docstrings": True})
class Request:
    """Images, known labels and classes, and settings of a run."""

    images: Annotated[Any, FOLDER] = None
    """Folder of images; its subfolders are searched too."""
    features: Annotated[Any, FILE] = None
    """Features of the images instead, by any image-text model: a file that `anyclass embed` wrote,
    or .npy, .npz, .parquet, .safetensors; in Python also an array. No model is loaded."""
    extra: Annotated[Any, FILE] = None
    """With --features: a file of further features, those before the model's projection."""
    class_text: Annotated[Any, FILE] = None
    """With --features: a file of the class names' text features by the same model, a row per name
    in --classes. A row of NaN: the class is known by its labels alone."""
    logit_scale: Annotated[float, Field(gt=0)] | None = None
    """With --features: factor of the model on cosine similarities; by default that in the file, or
    100."""
    classes: Annotated[
        Path | tuple[str, ...] | dict[str, str | tuple[str, ...]] | None,
        AfterValidator(split_names),
        arg(metavar="FILE|NAME NAME ...", constructor=Path | tuple[str, ...] | None),
    ] = None
    """File with one class name per line, or the names themselves. Name every class you know,
    with or without labelled images. A table with the columns name,prompt gives the prompt of
    each class; JSON and YAML are read too. In Python also a dict from names to prompts."""
    labels: Annotated[Any, arg(metavar="folders|FILE", constructor=str)] = None
    """`folders`: the parent folder of an image is its label. Or a table of file names and labels:
    CSV, Parquet or JSONL."""
    file_column: str = "file_name"
    """Column of the label table with the file names, if it has another name."""
    label_column: str = "label"
    """Column of the label table with the labels, if it has another name."""
    from_run: Annotated[Path | None, arg(name="from", metavar="RUN")] = None
    """Finished run to start from: its labels, and, if you give no others, its images, classes,
    model and options. `--labels` then adds or changes labels, such as the rows that you corrected
    in its predictions.csv."""
    unknown: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    """Number of unnamed classes to discover; auto estimates it, more reliably with labels."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labelled images to hold out of training and use for the scores alone. Set it for
    unbiased scores without a separate test set."""
    names: Annotated[Path | None, arg(metavar="FILE")] = None
    """File of candidate names for discovered classes, one per line; by default thousands of common
    nouns. Give one for a special field, such as bird species."""
    model: str = "starter"
    """Image-text model: starter (installed, small), an open_clip name such as
    ViT-B-32/laion2b_s34b_b79k, hf-hub:OWNER/NAME or local-dir:FOLDER. See `anyclass models`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Random seed. Another one shows how much a result depends on chance."""
    device: str = "auto"
    """Device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps."""
    engine: EngineName = "auto"
    """Engine of the frozen image encoder: auto takes the fastest on a CPU that agrees with torch;
    on a GPU it is torch, and bf16 can be asked for."""
    precision: Precision = "auto"
    """Precision of training: auto is bf16 on a GPU that computes in it natively, else float32; fp16
    is for GPUs that do not (T4, V100). On a CPU bf16 is up to twice as fast with AMX, and for
    transformers on AMD's with AVX-512 BF16."""
    decoding: Decoding = "full"
    """Decoding of JPEGs: reduced decodes large photographs at 1/2, 1/4 or 1/8 of their size, about
    twice as many in a second, with slightly other features."""
    prompt_ensemble: bool = True
    """Also score zero-shot with an ensemble of 80 prompt templates. Turn it off for thousands of
    classes: encoding 80 texts per class takes minutes the first time."""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Stop when a larger share of the images is unreadable."""
    allow_pickle: bool = False
    """Accept weights from a local folder that are not safetensors. They can run code: use it for
    sources you trust."""

    def dataset(self) -> ImageDataset:
        """Read the images with the known labels and classes, without those of a test split."""
        if self.images is None:
            raise RequestError("give images (--images DIR)")
        given = self._knowledge()
        return read_images(
            self.images,
            given.classes,
            given.labels,
            given.unknown,
            "fit",
            given.columns,
            given.known,
        )

    def precomputed(self, method: Method | str = "auto") -> PrecomputedFeatures | None:
        """Read the features with the known labels and classes; None: there are images.

        Raises:
            RequestError: they do not fit together, or the method needs images.
        """
        if self.features is None:
            return None
        asked = method if isinstance(method, str) else name_of(method)
        takers = ["auto", *(name for name, kind in METHODS.items() if kind.info.takes_features)]
        if asked not in takers:
            raise RequestError(f"{asked} needs --images: with --features use {' or '.join(takers)}")
        if getattr(method, "template", PLAIN) != PLAIN:
            raise RequestError(
                "--template belongs to --images DIR: with --features the texts of the classes are "
                "given (--class-text FILE); leave it out"
            )
        texts = None if self.class_text is None else read_class_texts(self.class_text)
        table = read_features(self.features, self.extra)
        return precomputed(table, texts, self._knowledge(), self.logit_scale)

    def _knowledge(self) -> ClassKnowledge:
        """What is known of the classes, by the options and by the earlier run."""
        unknown = 0 if self.unknown == "auto" else self.unknown
        columns = (self.file_column, self.label_column)
        before = None if self.earlier is None else self.earlier.known
        return ClassKnowledge(self.classes, self.labels, unknown, columns, before)

    @cached_property
    def earlier(self) -> EarlierRun | None:
        """The run to start from, read once; None if there is none.

        Raises:
            RequestError: it is no finished run.
        """
        return None if self.from_run is None else EarlierRun.read(self.from_run)

    def backbone(self) -> Backbone:
        """Load the model."""
        return Backbone.load(
            self.model,
            self.torch_device,
            self.allow_pickle,
            self.engine,
            self.precision,
            self.decoding,
        )

    @property
    def torch_device(self) -> str:
        """Torch device that `device` stands for."""
        return torch_device(self.device)

    def notices(self, dataset: ImageDataset, workload: Workload) -> list[str]:
        """Notices before a run."""
        ensemble = self.prompt_ensemble and self.features is None
        found = notices(dataset, workload, self.torch_device, self.precision, ensemble)
        if self.features is not None and self.unknown:
            found.append(
                "features come without a text encoder: no name is suggested for new classes"
            )
        return [*found, *self._named_since(dataset)]

    def _named_since(self, dataset: ImageDataset) -> list[str]:
        """What to say if classes have a name that the earlier run did not know."""
        earlier = self.earlier
        if earlier is None or not self.unknown or self.unknown != earlier.config.get("unknown"):
            return []
        new = earlier.named_since(dataset.classes)
        if self.unknown == "auto" or not new:
            return []
        left = max(0, self.unknown - len(new))
        return [
            f"--unknown {self.unknown}, as in {self.from_run}, counts further classes beside "
            f"{listed(new)}, known since: if that run discovered these, give --unknown {left}"
        ]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, paths absolute."""
        values = {field.name: getattr(self, field.name) for field in fields(Request)}
        for name in SOURCES:
            values[name] = recorded(values[name])
        if not isinstance(self.labels, str | Path | None):
            values["labels"] = f"array of {len(self.labels)} labels"
        values["model"] = None if self.features is not None else absolute_id(self.model)
        return values


def was_array(recorded: Any) -> bool:
    """Whether an option in `config.json` was an array or the like, which is not kept."""
    return str(recorded).startswith("array of ")


def recorded(value: Any) -> Any:
    """A source for `config.json`: an absolute path, names, or what an array is like."""
    if isinstance(value, str) and value != "folders":
        value = Path(value)
    if isinstance(value, Path):
        return str(value.resolve())
    if hasattr(value, "shape"):
        return f"array of {' x '.join(map(str, value.shape))}"
    if isinstance(value, ImageSource):
        return f"array of {len(value)} images"
    return value


def check_share(share: float, flag: str = "--max-rejected") -> None:
    """Check that the value of a flag is a share."""
    if not 0 <= share <= 1:
        raise RequestError(f"{flag} {share}: give a number between 0 and 1")


def check_rejected(rejected: int, images: int, table: Path | str, most: float) -> None:
    """Fail where more images are unreadable than allowed; the table is written by then.

    Args:
        rejected: number of unreadable images.
        images: number of images.
        table: where the reasons are.
        most: largest share (`--max-rejected`).

    Raises:
        AnyclassError: there are more.
    """
    if rejected > most * images:
        raise AnyclassError(
            f"{rejected} of {images} images could not be read; the reasons are in {table}. "
            f"--max-rejected allows {most:.0%}"
        )


def request_of(options: Mapping[str, Any]) -> Request:
    """Build a request from keyword arguments.

    Raises:
        RequestError: an option is unknown or has an invalid value; the message names it.
    """
    try:
        request = TypeAdapter(Request).validate_python(dict(options))
    except ValidationError as error:
        raise RequestError(first_problem(error)) from error
    check_source(request.images, request.features)
    check_owners(request)
    if request.names is not None:
        read_words(request.names)  # fail before the training, not after it
    return request


def first_problem(error: ValidationError) -> str:
    """First problem of a validation error, in one line."""
    first = error.errors()[0]
    part = "captioner." if error.title in {kind.__name__ for kind in CAPTIONERS.values()} else ""
    flag = f"--{part}{first['loc'][0]}".replace("_", "-")
    given = "" if first["type"].startswith("missing") else f" (got {first['input']!r:.100})"
    return f"{flag}: {first['msg'][:1].lower()}{first['msg'][1:]}{given}"


def check_source(
    images: Any, features: Any, extra: Any = None, engine: EngineName = "auto"
) -> None:
    """Require either images or features.

    Raises:
        RequestError: there are none, or both, or an option belongs to the other one.
    """
    check_owner("extra", extra is not None, features is not None)
    check_owner("engine", engine != "auto", features is None)
    if images is None and features is None:
        raise RequestError("give images (--images DIR) or their features (--features FILE)")
    if images is not None and features is not None:
        raise RequestError("give images (--images DIR) or features (--features FILE), not both")
