"""SHIP's table 3: generalized zero-shot learning on CUB, AWA2 and FLO.

    python benchmarks/gzsl.py --data DATA --model ViT-B-16-quickgelu/openai

All training images of the seen classes are labelled, of the unseen ones only the names are known;
features without augmentation. U, S and H: mean accuracy per class on test images of unseen and of
seen classes, all classes competing. Splits of Xian et al. by `paper_sets.xian_set`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from base_to_new import METHODS, method
from open_sets import available
from paper_runs import arguments, backbone, chosen, fitted_scores, percent, run_rows
from paper_sets import XIAN_IMAGES, Splits, xian_set
from unsupervised import joined
from validation import labelled_features

from anyclass.backbone import Backbone
from anyclass.features.store import FeatureStore
from anyclass.log import Log
from anyclass.methods import Method
from anyclass.methods.few_shot import FewShot, draw_shots
from anyclass.methods.labelled_features import LabelledFeatures


class PlainViews(FewShot):
    """Labelled images without augmentation: their test view."""

    def labelled_features(
        self, data: FeatureStore, log: Log, epochs: int, seed: int
    ) -> LabelledFeatures:
        """Features of the labelled images, one view each."""
        chosen = data.dataset[draw_shots(data.dataset.labels, self.shots, seed)]
        return labelled_features(data.clip, chosen)


def score(clip: Backbone, how: Method, split: Splits, seed: int) -> dict[str, Any]:
    """U, S and H in percent, with zero-shot beside them."""
    classes = split.train.classes
    unseen = set(range(len(classes))) - set(split.train.labels.tolist())
    train = split.train.naming_only([classes.names[c] for c in unseen])
    test = joined(split.val, split.test)
    scores = fitted_scores(clip, how, train, test, seed)
    result = {}
    for name, of in (("", "adapted"), ("zero_shot_", "zero_shot")):
        halves = scores[of]["generalized"]
        result[f"{name}generalized"] = {
            "unseen": percent(halves["new"]),
            "seen": percent(halves["base"]),
            "h": percent(halves["harmonic_mean"]),
        }
    return result


def halved(read: Callable[[], Splits]) -> Splits:
    """A set without such splits: the second half of the classes is unseen."""
    split = read()
    first = (len(split.train.classes) + 1) // 2
    unseen = split.test.labels >= first
    return Splits(split.train[split.train.labels < first], split.test[~unseen], split.test[unseen])


def scored_row(
    clip: Backbone, split: Splits, dataset: str, shots: FewShot, row: str, seed: int
) -> dict[str, Any]:
    """Scores of a row of the table."""
    return score(clip, method(row, dataset, shots), split, seed)


def main() -> None:
    """Run what is missing."""
    parser = arguments(__doc__ or "", METHODS, "ViT-B-16-quickgelu/openai")
    asked = parser.parse_args()
    clip = backbone(asked)
    there: dict[str, Callable[[], Splits]] = {
        name: partial(xian_set, asked.data, name)
        for name in XIAN_IMAGES
        if (asked.data / "xlsa17" / "data" / name).is_dir()
    }
    if asked.suite == "open":
        more = available(asked.data, "open")
        there |= {name: partial(halved, read) for name, read in more.items()}
    shots = PlainViews(views=1)
    for name, read in chosen(asked.sets, there).items():
        split = read()
        run_rows(
            asked,
            "gzsl",
            name,
            partial(scored_row, clip, split, name, shots),
        )


if __name__ == "__main__":
    main()
