"""LatteCLIP's tables 1 to 5 and figure 6: names alone, no label, scored on test images.

    python benchmarks/unsupervised.py --data DATA --model ViT-B-32/laion2b_s34b_b79k --tune all \
        --endpoint http://127.0.0.1:11434/v1

Trained on the training and validation images of the sets of `paper_sets.py`, with the learning
rates and templates of the paper; the model after the last step is scored. Without `--endpoint` the
texts are those of the vocabulary, and rows say so; the language model's own zero-shot needs it.
`--share 0.2` trains on a random fifth of the images (figure 6). Labels are read by the oracle and
the rows "true groups" (table 4).
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import language_model
import numpy as np
from open_sets import available, paper_name
from paper_runs import arguments, backbone, chosen, fitted_scores, percent, run_rows
from paper_sets import Splits
from true_groups import TrueGroups

from anyclass.backbone import Backbone
from anyclass.captioning import Endpoint
from anyclass.data import ImageDataset
from anyclass.features.domains import DOMAINS
from anyclass.features.text import PLAIN
from anyclass.methods import Method
from anyclass.methods.flyp import Flyp
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.open_world import OpenWorld
from anyclass.methods.reclip import Reclip
from anyclass.methods.zero_shot import ZeroShot
from anyclass.training.tuning import Tuning

LATTECLIP: dict[str, dict[str, Any]] = {
    "latteclip": {},
    "latteclip, class and image": {"texts": ("class", "image")},
    "latteclip, class": {"texts": ("class",)},
    "latteclip, image and group": {"texts": ("image", "group")},
    "latteclip, image": {"texts": ("image",)},
    "latteclip, group": {"texts": ("group",)},
    "latteclip, class and group": {"texts": ("class", "group")},
    "latteclip, equal weights": {"margin": "equal"},
    "latteclip, no L_ft": {"branches": ("zs",)},
    "latteclip, no L_zs": {"branches": ("ft",)},
    "latteclip, no momentum": {"momentum": "none"},
    "latteclip, n = 2": {"group_size": 2},
    "latteclip, n = 8": {"group_size": 8},
    "latteclip, n = 16": {"group_size": 16},
}
"""Rows of tables 1, 2, 3 and 5: fields that differ from the defaults."""

TRUE_GROUPS = {f"latteclip, true groups, {right} of 4": right for right in (1, 2, 3, 4)}
"""Rows of table 4: images of each group that show its class."""

LANGUAGE_MODEL = "language model"
"""Row of the language model's own zero-shot."""

METHODS = ["zero-shot", "zero-shot, 80 templates", "reclip", "flyp, pseudo-labels", "open-world"]
METHODS += [*LATTECLIP, *TRUE_GROUPS, "oracle", LANGUAGE_MODEL]


def tuning(dataset: str, tune: Any) -> Tuning:
    """The paper's settings of the whole model; the project's own for a part of it."""
    if tune != "all":
        return Tuning(tune, views=2)
    if dataset not in DOMAINS:
        return Tuning()
    about = DOMAINS[dataset]
    return Tuning(lr=about.lr, weight_decay=about.weight_decay)


def method(row: str, dataset: str, asked: argparse.Namespace) -> Method:
    """The method of a row with the settings of a set."""
    template = DOMAINS[dataset].template if dataset in DOMAINS else PLAIN
    how = tuning(dataset, asked.tune)
    if row in LATTECLIP or row in TRUE_GROUPS:
        domain = dataset if dataset in DOMAINS else "object"
        captions: dict[str, Any] = {"domain": domain}
        if asked.endpoint:
            captions["captioner"] = endpoint(asked)
        if row in TRUE_GROUPS:
            return TrueGroups(tuning=how, right=TRUE_GROUPS[row], **captions)
        return LatteClip(tuning=how, **captions, **LATTECLIP[row])
    if row == "oracle":
        return Flyp(tuning=how, template=template, learn_from="given")
    if row == "flyp, pseudo-labels":
        return Flyp(tuning=how, template=template)
    if row == "reclip":
        return Reclip(tune="tail" if asked.tune == "head" else asked.tune, template=template)
    if row == "open-world":
        return OpenWorld(template=template)
    return ZeroShot(template=template)


def endpoint(asked: argparse.Namespace) -> Endpoint:
    """The captioner behind `--endpoint`."""
    return Endpoint(url=asked.endpoint, model=asked.caption_model)


def score(
    clip: Backbone, how: Method, row: str, split: Splits, seed: int, share: float = 1.0
) -> dict[str, Any]:
    """Accuracy on the test images in percent, with zero-shot beside it."""
    train = part_of(joined(split.train, split.val), share, seed)
    if isinstance(how, TrueGroups):
        how = replace(how, truth=tuple(train.labels.tolist()))
    train = train if row == "oracle" else train.unlabelled_copy()
    ensemble = row == "zero-shot, 80 templates"
    scores = fitted_scores(clip, how, train, split.test, seed, ensemble)
    adapted = scores["zero_shot_ensemble" if ensemble else "adapted"]
    accuracies = {"accuracy": adapted, "zero_shot": scores["zero_shot"]}
    return {name: percent(some["accuracy"]) for name, some in accuracies.items()}


def part_of(images: ImageDataset, share: float, seed: int) -> ImageDataset:
    """A random share of the images, whatever their classes, in their order."""
    if share == 1:
        return images
    count = max(1, round(share * len(images)))
    return images[np.sort(np.random.default_rng(seed).permutation(len(images))[:count])]


def joined(one: ImageDataset, other: ImageDataset) -> ImageDataset:
    """Images of two splits of the same folder and classes."""
    if not len(other):
        return one
    labels = np.concatenate([one.labels, other.labels])
    return replace(one, files=one.files + other.files, labels=labels)


def title(row: str, asked: argparse.Namespace) -> str:
    """Name of a row, which says what is not the paper's."""
    if row == LANGUAGE_MODEL:
        return row
    texts = LATTECLIP.get(row, {}).get("texts", ("image",) if row.startswith("latteclip") else ())
    captioned = bool({"image", "group"} & set(texts)) and not asked.endpoint
    name = f"{row}, vocabulary" if captioned else row
    name = name if asked.share == 1 else f"{name}, {100 * asked.share:g} % of the images"
    return name if asked.tune == "all" else f"{name} ({asked.tune})"


def run(
    clip: Backbone, asked: argparse.Namespace, name: str, split: Splits, row: str, seed: int
) -> dict[str, Any]:
    """Score one row of a set with one seed."""
    if row == LANGUAGE_MODEL:
        return {"accuracy": percent(language_model.accuracy(endpoint(asked), clip, split.test))}
    return score(clip, method(row, name, asked), row, split, seed, asked.share)


def main() -> None:
    """Run what is missing."""
    parser = arguments(__doc__ or "", METHODS, "ViT-B-32/laion2b_s34b_b79k")
    parser.add_argument("--tune", default="all", choices=("all", "tail", "head"))
    parser.add_argument("--endpoint", default="", help="server of the captioner")
    parser.add_argument("--caption-model", default="", help="model of the captioner")
    parser.add_argument("--share", type=float, default=1.0, help="share of the training images")
    asked = parser.parse_args()
    if not 0 < asked.share <= 1:
        parser.error(f"--share is {asked.share}: give a number above 0 and at most 1")
    if not asked.endpoint:
        asked.methods = [row for row in asked.methods if row != LANGUAGE_MODEL]
    if not asked.methods:
        parser.error(f'the row "{LANGUAGE_MODEL}" needs a server: add --endpoint URL')
    clip = backbone(asked)
    for name, read in chosen(asked.sets, available(asked.data, asked.suite)).items():
        score_row = partial(run, clip, asked, paper_name(name), read())
        run_rows(asked, "unsupervised", name, score_row, partial(title, asked=asked))


if __name__ == "__main__":
    main()
