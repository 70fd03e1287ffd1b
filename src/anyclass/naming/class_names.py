"""Discovered classes in a run folder: what they might be called.

`naming.json` is exact and for the report; `classes.csv` is for people, who edit its column `name`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.backbone.device import torch_device
from anyclass.captioning import AnyCaptioner, CaptionContext
from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.features.extract import (
    Embedding,
    cached_part,
    current_features,
    embed,
    image_features,
)
from anyclass.features.text import PLAIN, class_features
from anyclass.files import atomic_write, cache_folder, read_json, write_json
from anyclass.log import Log
from anyclass.naming.suggest import ALPHA, TOP, Name, Sorted, asked, nearness, read_words, suggest
from anyclass.run.tables import write_table

Json = dict[str, Any]

NAMING, TABLE = "naming.json", "classes.csv"
"""Names of the files; only a run that discovered classes has them."""

COLUMNS = pa.schema(
    [
        ("index", pa.int64()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("suggested", pa.string()),
        ("runner_up", pa.string()),
        ("confidence", pa.string()),
        ("pictures", pa.int64()),
        ("examples", pa.string()),
    ]
)
"""Columns of `classes.csv`; one row per class, the labelled ones too."""


@torch.no_grad()
def name_classes(
    clip: Backbone,
    classifier: Classifier,
    dataset: ImageDataset,
    probabilities: Float[ndarray, "N K"],
    words: Path | None,
    log: Log,
) -> Json | None:
    """What discovered classes might be called; None where none was discovered.

    Args:
        clip: the model before training.
        classifier: what discovered them.
        dataset: the N images it was fitted on, with the classes as the user gave them.
        probabilities: its probabilities of them.
        words: file of candidate words; None: the shipped nouns.
        log: gets the progress of embedding.

    Raises:
        RequestError: the file cannot be used.
    """
    classes = classifier.classes
    if "unknown" not in classes.kinds:
        return None
    part = cached_part(classifier.part)
    z = current_features(clip, dataset, part, embed(clip, dataset, Embedding(part), log)).cpu()
    top = torch.from_numpy(probabilities).topk(min(2, len(classes)), dim=1)
    pseudo = classifier.record.get("pseudo_texts")
    found = Sorted(
        z,
        torch.from_numpy(probabilities.argmax(1)),
        top.values[:, 0] - top.values[:, -1],
        None if pseudo is None else normalize(pseudo.cpu(), dim=-1),
    )
    given = [dataset.classes.names[c] for c in dataset.classes.named]
    encode = _Words(clip, str(classifier.fields.get("template", PLAIN)))
    names, trial, candidates = suggest(found, classes, given, read_words(words), encode)
    return {
        "hit_rate_known": trial.hit_rate,
        "hit_rate_known_top": trial.hit_rate_top,
        "known": trial.known,
        "threshold": trial.threshold,
        "words": candidates,
        "classes": [_row(name, classes, dataset.files) for name in names],
    }


def write_naming(run: Path, naming: Json) -> None:
    """Write both files."""
    write_json(run / NAMING, naming)
    write_table(run / TABLE, map(_line, naming["classes"]), COLUMNS)


@torch.no_grad()
def described(run: Path, captioner: AnyCaptioner, log: Log) -> Json:
    """The content of `naming.json` once a captioner has named the discovered classes.

    Its names come before the words; `rank` is that of a name among those words by the model, and it
    is likely where the model finds no other discovered class nearer to it.

    Args:
        run: a run folder.
        captioner: who is shown a collage of typical images of each class.
        log: gets the progress.

    Raises:
        RequestError: the captioner cannot be asked, or its answers are still to come.
        AnyclassError: too many questions have no answer.
    """
    naming, config = read_json(run / NAMING), read_json(run / "config.json")
    everything = ImageDataset.read(config["images"])
    place = {file: i for i, file in enumerate(everything.files)}
    asked_of = [row for row in naming["classes"] if row["kind"] == "unknown"]
    files = {r["index"]: [f for f in r["typical"] if f in place] for r in asked_of}
    rows = [(place[file], k) for k, some in files.items() for file in some]
    if not rows:
        raise RequestError(f"none of the images to be shown is left in {config['images']}")
    how = (torch_device(config["device"]), config["allow_pickle"], config["engine"])
    clip = Backbone.load(config["model"], *how)
    dataset = everything[[i for i, _ in rows]]
    z = image_features(clip, embed(clip, dataset, Embedding("head"), log), "head").cpu()
    owner = [k for _, k in rows]
    typical = {k: [i for i, mine in enumerate(owner) if mine == k] for k in files}
    names = {
        k: v
        for k, v in asked(captioner, CaptionContext(dataset, clip, z), typical, log).items()
        if v
    }
    words = read_words(Path(config["names"]) if config.get("names") else None)
    encode = _Words(clip, config["template"])
    texts = torch.cat([encode(words), *([encode(list(names.values()))] if names else [])])
    found = Sorted(z, torch.tensor(owner), torch.zeros(len(owner)))
    scores = nearness(found, len(naming["classes"]), texts, ALPHA)
    for column, (k, name) in enumerate(names.items(), len(words)):
        row, mine = naming["classes"][k], float(scores[k, column])
        words_too = [w for w in (row["suggested"], *row["runners_up"]) if w and w != name]
        row["runners_up"] = words_too[: TOP - 1]
        row["suggested"], row["source"] = name, captioner.kind
        row["rank"] = 1 + int((scores[k, : len(words)] > mine).sum())
        nearest = max(names, key=lambda other: (float(scores[other, column]), other == k))
        row["confidence"] = "likely" if nearest == k else "maybe"
    return dict(naming)


def _row(name: Name, classes: Classes, files: Sequence[str]) -> Json:
    """One class of `naming.json`."""
    unknown = classes.kind(name.k) == "unknown"
    return {
        "index": name.k,
        "name": classes.names[name.k],
        "kind": classes.kind(name.k),
        "suggested": name.words[0] if unknown and name.words else None,
        "runners_up": name.words[1:],
        "confidence": ("likely" if name.likely else "maybe") if unknown and name.words else None,
        "margin": name.margin,
        "pictures": name.size,
        "typical": [files[i] for i in name.typical],
        "borderline": [files[i] for i in name.borderline],
    }


def _line(row: Json) -> Json:
    """One row of `classes.csv`."""
    cells = {key: row[key] for key in COLUMNS.names if key in row}
    return cells | {
        "runner_up": "; ".join(row["runners_up"]),
        "examples": "; ".join(row["typical"]),
    }


@dataclass(frozen=True)
class _Words:
    """Unit features of words in a template, kept on disk: thousands of them take their time."""

    clip: Backbone
    template: str

    def __call__(self, words: Sequence[str]) -> Float[Tensor, "V D"]:
        """Features of words."""
        key = json.dumps([self.clip.weights_sha256, self.template, *words])
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        path = cache_folder("words") / f"{digest}.safetensors"
        try:
            return load_file(path)["words"]
        except (OSError, SafetensorError, KeyError):
            features = class_features(self.clip, words, [self.template]).cpu().float()
        with atomic_write(path) as draft:
            save_file({"words": features.contiguous()}, draft)
        return features
