"""SHIP's tables 1 and 9: 16 labels for each class of the first half, names for the second.

    python benchmarks/base_to_new.py --data DATA --model ViT-B-16-quickgelu/openai

One classifier of all classes gives both tables: in `sliced` each half is scored against its own
names, in `mixed` against all. Base, new and H on the test images of `paper_sets.py`; trained on the
training images; the model after the last epoch is scored. Alpha and beta of Tip-Adapter and alpha
of GDA are selected on validation images of the first half, or where there are none (ImageNet) on a
quarter of the labelled images.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from open_sets import available, paper_name
from paper_runs import arguments, backbone, chosen, fitted_scores, percent, run_rows
from paper_sets import COOP_SETS, PLAIN, Splits
from validation import TIP_ADAPTER

from anyclass.backbone import Backbone
from anyclass.methods import Method
from anyclass.methods.clip_adapter import ClipAdapter
from anyclass.methods.cocoop import CoCoOp
from anyclass.methods.coop import CoOp
from anyclass.methods.few_shot import CROPS, FewShot
from anyclass.methods.gda import Gda
from anyclass.methods.open_world import OpenWorld
from anyclass.methods.ship import Ship, Then
from anyclass.methods.ship_vae import Vae
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.methods.zero_shot import ZeroShot

METHODS = ["zero-shot", "coop", "cocoop", "coop + ship", "clip-adapter", "clip-adapter + ship"]
METHODS += ["tip-adapter", "tip-adapter + ship", "gda", "open-world"]


HELD_OUT = 0.25
"""Share of the labelled images that select alpha and beta where there is no validation split."""


IMAGENET_CROPS = replace(CROPS, scale=(0.08, 1.0))
"""Augmentation of SHIP's released code for ImageNet."""


def coop(dataset: str, shots: FewShot) -> CoOp:
    """CoOp as SHIP's released code trains it."""
    if dataset == "imagenet":
        return CoOp(data=shots, recipe="ship-imagenet", lr=1e-3, epochs=20)
    return CoOp(data=shots, recipe="ship")


def generator(dataset: str) -> Vae:
    """SHIP's generator with the settings of the released code."""
    return Vae(slope=0.2, epochs=10) if dataset == "imagenet" else Vae()


def views_of(dataset: str, shots: FewShot) -> FewShot:
    """Labelled images with the augmentation of a set."""
    return replace(shots, augmentation=IMAGENET_CROPS) if dataset == "imagenet" else shots


def companion(name: str, dataset: str, shots: FewShot, val: bool) -> Then:
    """A few-shot method with the settings of a set; `val`: whether it has a validation split."""
    template = COOP_SETS[dataset].template if dataset in COOP_SETS else PLAIN
    if name == "coop":
        return coop(dataset, shots)
    if name == "clip-adapter":
        return ClipAdapter(data=shots, template=template)
    search = 0.0 if val else HELD_OUT
    if name == "tip-adapter":
        settings = TIP_ADAPTER.get(dataset, TIP_ADAPTER["imagenet"])
        return TipAdapter(data=shots, template=template, search=search, **settings._asdict())
    if name == "gda":
        return Gda(data=shots, template=template, search=search)
    raise ValueError(name)


def method(row: str, dataset: str, shots: FewShot, val: bool = False) -> Method:
    """The method of a row; `val`: whether the set has a validation split."""
    template = COOP_SETS[dataset].template if dataset in COOP_SETS else PLAIN
    if row == "zero-shot":
        return ZeroShot(template=template)
    if row == "open-world":
        return OpenWorld(template=template, shots=shots.shots)
    views = views_of(dataset, shots)
    if row == "cocoop":
        return CoCoOp(data=views)
    then = companion(row.split(" + ")[0], dataset, views, val)
    if not row.endswith("+ ship"):
        return then
    return Ship(then=then, template=template, generator=generator(dataset))


def score(clip: Backbone, how: Method, split: Splits, seed: int) -> dict[str, Any]:
    """Base, new and H of both label spaces, in percent, with zero-shot beside them."""
    classes = split.train.classes
    train = split.train.naming_only(classes.second_half)
    base = split.val[np.isin(split.val.labels, np.unique(train.labelled.labels))]
    scores = fitted_scores(clip, how, train, split.test, seed, val=base)
    found = {"selected": scores["selected"]}
    for name, of in (("", "adapted"), ("zero_shot_", "zero_shot")):
        for space in ("sliced", "mixed", "generalized"):
            found[name + space] = {key: percent(share) for key, share in scores[of][space].items()}
    return found


def scored_row(
    clip: Backbone, split: Splits, dataset: str, shots: FewShot, row: str, seed: int
) -> dict[str, Any]:
    """Scores of a row of the table."""
    return score(clip, method(row, dataset, shots, len(split.val) > 0), split, seed)


def main() -> None:
    """Run what is missing."""
    parser = arguments(__doc__ or "", METHODS, "ViT-B-16-quickgelu/openai")
    parser.add_argument("--shots", type=int, default=16, help="labelled images per class")
    parser.add_argument("--views", type=int, default=10, help="cached views; 0: new in each epoch")
    asked = parser.parse_args()
    clip = backbone(asked)
    shots = FewShot(shots=asked.shots, views=asked.views)
    for name, read in chosen(asked.sets, available(asked.data, asked.suite)).items():
        split = read()
        run_rows(
            asked,
            "base_to_new",
            name,
            partial(scored_row, clip, split, paper_name(name), shots),
        )


if __name__ == "__main__":
    main()
