"""GET's tables: half of the images of the known classes labelled, the other classes unknown.

    python benchmarks/discovery.py --data DATA --model ViT-B-16-quickgelu/openai --device cuda

All, Old and New are clustering accuracies on the unlabelled training images (transductive), K
given, in percent. Sets and their known classes: `discovery_sets.py`. The papers' schedules; the
weight of the entropy term by set. `get.py` has the ablations on the starter.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from discovery_sets import Discovery, available, discovery_set
from latteclip import silent
from paper_runs import arguments, backbone, chosen, percent, run_rows

from anyclass.backbone import Backbone
from anyclass.estimators.metrics import clustering
from anyclass.features.store import FeatureStore
from anyclass.methods import Method
from anyclass.methods.gcd import Gcd
from anyclass.methods.get import Get
from anyclass.methods.kmeans import KMeans
from anyclass.methods.open_world import OpenWorld
from anyclass.methods.simgcd import SimGcd
from anyclass.run.predict import predict_all

METHODS = ["kmeans", "semi-supervised kmeans", "gcd", "simgcd", "get", "open-world"]

ENTROPY_WEIGHT = {"cub": 2.0, "cifar100": 4.0}
"""Weight of the entropy term where it is not 1 (released scripts of GET)."""


def method(row: str, dataset: str, views: int) -> Method:
    """The method of a row with the settings of a set."""
    if row in ("kmeans", "semi-supervised kmeans"):
        return KMeans(semi_supervised=row != "kmeans")
    if row == "gcd":
        return Gcd()
    if row == "open-world":
        return OpenWorld()
    how: SimGcd | Get = SimGcd() if row == "simgcd" else Get()
    weight = ENTROPY_WEIGHT.get(dataset, how.objective.entropy_weight)
    tuning = replace(how.tuning, views=views)
    return replace(how, tuning=tuning, objective=replace(how.objective, entropy_weight=weight))


def score(clip: Backbone, how: Method, some: Discovery, seed: int) -> dict[str, Any]:
    """All, Old and New in percent on the images without a label."""
    data = FeatureStore(clip, some.dataset)
    found = how.fit(data, silent, seed=seed)
    recorded = found.record.predictions.get("predicted")
    guess = np.array(recorded) if recorded is not None else None
    if guess is None:
        guess = predict_all(data, found, silent, prompt_ensemble=False).log_adapted.argmax(1)
    hidden = some.dataset.labels < 0
    scores = clustering(some.truth[hidden], guess[hidden], range(some.known))
    assert scores is not None
    figures = {key: percent(scores[key]) for key in ("all", "old", "new", "old_fixed")}
    return figures | {"images": len(some.dataset), "labelled": int((~hidden).sum())}


def scored_row(
    clip: Backbone, some: Discovery, dataset: str, views: int, row: str, seed: int
) -> dict[str, Any]:
    """Scores of a row of the table."""
    return score(clip, method(row, dataset, views), some, seed)


def main() -> None:
    """Run what is missing."""
    parser = arguments(__doc__ or "", METHODS, "ViT-B-16-quickgelu/openai")
    parser.add_argument("--views", type=int, default=0, help="cached views; 0: new in each epoch")
    asked = parser.parse_args()
    clip = backbone(asked)
    there = {name: name for name in available(asked.data, asked.suite)}
    for name in chosen(asked.sets, there):
        some = discovery_set(asked.data, name)
        run_rows(
            asked,
            "discovery",
            name,
            partial(scored_row, clip, some, name, asked.views),
        )


if __name__ == "__main__":
    main()
