"""Names of discovered classes by a captioner, which is shown typical images of each class."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.backbone.device import torch_device
from anyclass.captioning import AnyCaptioner, CaptionContext, Captioner, CaptionRequest
from anyclass.captioning.cleaning import cleaned
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.features.store import FeatureStore
from anyclass.files import Json, read_json
from anyclass.log import Log
from anyclass.naming.naming_files import TOP
from anyclass.naming.suggest import ClassifiedImages, word_scores
from anyclass.naming.words import read_words, word_encoder
from anyclass.run.content import read_naming

LONGEST, WORDS = 40, 4
"""Maximum number of characters and words of a name by a captioner."""
QUESTION = (
    "All these photos show the same kind of thing. Name it with one noun phrase of at most 4 "
    "words. Answer with the name alone."
)
"""Question to a captioner about a collage."""


@torch.no_grad()
def suggest_with_captioner(run: Path, captioner: AnyCaptioner, log: Log) -> Json:
    """Suggest names with a captioner; return the new content of `naming.json`.

    The captioner's name becomes the suggestion and former suggestions become runners-up. `rank` is
    the rank of the name among the candidate words by score. A name is "likely" if its score is
    higher for this class than for the other discovered ones.

    Args:
        run: a run folder.
        captioner: captioner that gets a collage of typical images of each class.
        log: gets the progress.

    Raises:
        RequestError: the captioner is not available, or its answers are not there yet.
        AnyclassError: too many questions have no answer.
    """
    naming = read_naming(run)
    config = read_json(run / "config.json")
    if config["images"] is None:
        raise RequestError(f"{run} was fitted on features: there is no image to show a captioner")
    typical = TypicalImages.of(naming["classes"], ImageDataset.read(config["images"]))
    dataset = typical.dataset
    if not len(dataset):
        raise RequestError(f"none of the example images exists in {config['images']}")
    clip = Backbone.load(
        config["model"],
        torch_device(config["device"]),
        config["allow_pickle"],
        config["engine"],
        decoding=config.get("decoding", "full"),
    )
    z = FeatureStore(clip, dataset).image_features("head", log).cpu()
    answers = ask_names(captioner, CaptionContext(dataset, clip, z), typical.rows, log)
    names = {k: name for k, name in answers.items() if name}
    words = read_words(Path(config["names"]) if config.get("names") else None)
    encode = word_encoder(clip, config["template"], log)
    texts = encode(words)
    if names:
        texts = torch.cat([texts, encode(list(names.values()))])
    found = ClassifiedImages(z, typical.predicted, torch.zeros(len(dataset)))
    scores = word_scores(found, len(naming["classes"]), texts)
    for k, name in names.items():
        row = naming["classes"][k]
        row |= _renamed(row, name) | {"source": captioner.kind}
        row |= _rating(k, list(names), scores)
    return dict(naming)


class TypicalImages(NamedTuple):
    """Typical images of the classes without a name."""

    dataset: ImageDataset
    """The images that still exist."""
    predicted: Int[Tensor, " n"]
    """Class of each image."""
    rows: dict[int, list[int]]
    """Class -> rows of its images."""

    @classmethod
    def of(cls, classes: Sequence[Json], dataset: ImageDataset) -> "TypicalImages":
        """Find the images that `naming.json` lists among those of a folder."""
        row_of = {file: i for i, file in enumerate(dataset.files)}
        unknown = [row for row in classes if row["kind"] == "unknown"]
        found: list[int] = []
        predicted: list[int] = []
        rows: dict[int, list[int]] = {}
        for row in unknown:
            present = [row_of[file] for file in row["typical"] if file in row_of]
            rows[row["index"]] = list(range(len(found), len(found) + len(present)))
            predicted += [row["index"]] * len(present)
            found += present
        return cls(dataset[found], torch.tensor(predicted, dtype=torch.long), rows)


def _renamed(row: Json, name: str) -> Json:
    """A name as the suggestion of a class; its former suggestions become runners-up."""
    former = [w for w in (row["suggested"], *row["runners_up"]) if w and w != name]
    return {"runners_up": former[: TOP - 1], "suggested": name}


def _rating(k: int, named: Sequence[int], scores: Float[Tensor, "K V"]) -> Json:
    """Rank and confidence of the new name of class k.

    Args:
        k: the class.
        named: all classes with a new name.
        scores: of all candidate words, followed by the new names of `named`.
    """
    words = scores.shape[1] - len(named)
    score_of = scores[:, words + named.index(k)]
    closest = max(named, key=lambda other: (float(score_of[other]), other == k))
    return {
        "rank": 1 + int((scores[k, :words] > float(score_of[k])).sum()),
        "confidence": "likely" if closest == k else "maybe",
    }


def ask_names(
    captioner: Captioner, context: CaptionContext, typical: Mapping[int, Sequence[int]], log: Log
) -> dict[int, str | None]:
    """Ask a captioner for a distinct name of each class; None if it gave no usable name.

    If several classes get the same name, the captioner is asked about them once more; names that
    are still equal are numbered. Answers are data: cleaned, and never part of a question.

    Args:
        captioner: the captioner; it may send images to another machine.
        context: the images.
        typical: rows of the images of each class, which are shown as one collage.
        log: gets the progress.
    """

    def ask(some: Sequence[int], question: str, variant: int) -> dict[int, str | None]:
        requests = [CaptionRequest(tuple(typical[k]), question, "thing", variant) for k in some]
        answers = captioner.describe(requests, context, log)
        return {k: answer_to_name(text) for k, text in zip(some, answers, strict=True)}

    names = ask([k for k, rows in typical.items() if len(rows)], QUESTION, 0)
    repeated = _repeated(names)
    if repeated:
        question = f"{QUESTION} Be as specific as the photos allow."
        names |= {k: name for k, name in ask(repeated, question, 1).items() if name}
    count: dict[str, int] = {}
    for k in _repeated(names):
        name = str(names[k])
        count[name] = count.get(name, 0) + 1
        names[k] = f"{name} {count[name]}"
    return {k: names.get(k) for k in typical}


def answer_to_name(text: str | None) -> str | None:
    """Convert an answer to a name: one line, lower case, no article, no marks of Markdown.

    None if it is too long.
    """
    line = (cleaned(text) or "").lower().lstrip("*_#` ").rstrip(".!,;:。*_` ")
    name = re.sub(r"^(an?|the)\s+", "", line)
    short = len(name) <= LONGEST and len(name.split()) <= WORDS
    return name if name and short else None


def _repeated(names: Mapping[int, str | None]) -> list[int]:
    """Classes that share their name with another class."""
    counts = Counter(names.values())
    return [k for k, name in names.items() if name and counts[name] > 1]
