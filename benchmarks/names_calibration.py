"""Scores where only names are known: calibration, order, and ways to find a temperature.

    python benchmarks/names_calibration.py --data FOLDER [FOLDER ...] --sets caltech72 dogs

Zero-shot and open-world by the names alone, scored on test images: the share that is right, the
mean score, the expected calibration error, and how well the score sorts right from wrong (area
under the ROC curve; no order: 50). Then the error at the temperature at which the mean score of
the training images is an accuracy that is guessed without labels:

    each other   share of images on which zero-shot and open-world agree
    clusters     share that agree with k-means of as many clusters, matched one to one
    folds        share of zero-shot labels that class means of the other half predict as well
    best         the temperature with the least error on the test images; no method, a bound
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from feature_sets import FeatureSet, load
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score

from anyclass.estimators.agreement import mean_score, temperature_of_mean
from anyclass.estimators.kmeans import class_means, kmeans, nearest_centre
from anyclass.estimators.metrics import assignment, calibration_gap
from anyclass.estimators.open_world import OpenWorldClassifier

TEMPERATURES = np.geomspace(0.3, 30, 80)
"""Temperatures that `best` tries."""


def guesses(
    data: FeatureSet, zero_shot: Int[np.ndarray, " N"], other: Int[np.ndarray, " N"], seed: int
) -> dict[str, float]:
    """Accuracies of zero-shot labels, guessed without labels.

    Args:
        data: the set.
        zero_shot: label of each training image by zero-shot.
        other: by open-world.
        seed: random seed of clusters and folds.
    """
    x = torch.from_numpy(data.train_x).float()
    classes = data.classes
    cluster = nearest_centre(x, kmeans(x, classes, 3, seed).centres).numpy()
    halves = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)) % 2)
    labels = torch.from_numpy(zero_shot)
    again = torch.empty_like(labels)
    for half in (0, 1):
        means = class_means(x[halves != half], labels[halves != half], classes)
        again[halves == half] = nearest_centre(x[halves == half], means)
    return {
        "each other": float((zero_shot == other).mean()),
        "clusters": float((assignment(zero_shot, cluster)[cluster] == zero_shot).mean()),
        "folds": float((again == labels).float().mean()),
    }


def error(
    log_p: Float[np.ndarray, "n C"], truth: Int[np.ndarray, " n"], temperature: float = 1.0
) -> float:
    """Expected calibration error of p^(1/T)."""
    tempered = torch.from_numpy(log_p / temperature).log_softmax(1).numpy()
    return calibration_gap(np.exp(tempered.max(1)), tempered.argmax(1) == truth)


def figures(data: FeatureSet, seed: int) -> dict[str, dict[str, float]]:
    """Figures of zero-shot and of open-world, as shares."""
    assert data.text is not None, f"{data.name} has no class texts"
    fitted = OpenWorldClassifier().fit(
        data.train_x, None, data.text, data.scale, data.train_h, data.negatives
    )
    logits = {
        "zero-shot": [data.scale * x @ data.text.T for x in (data.train_x, data.test_x)],
        "open-world": [
            fitted.decision_function(data.train_x, data.train_h),
            fitted.decision_function(data.test_x, data.test_h),
        ],
    }
    first, second = (of_train.argmax(1) for of_train, _ in logits.values())
    guessed = guesses(data, first, second, seed)
    found = {}
    for name, (train, test) in logits.items():
        right = test.argmax(1) == data.test_y
        log_p = torch.from_numpy(test).log_softmax(1).numpy()
        row = {
            "right": float(right.mean()),
            "mean score": mean_score(log_p, 1.0),
            "error": error(test, data.test_y),
            "order": float(roc_auc_score(right, log_p.max(1))),
        }
        for key, accuracy in guessed.items():
            row[key] = error(test, data.test_y, temperature_of_mean(train, accuracy))
        row["best"] = min(error(test, data.test_y, t) for t in TEMPERATURES)
        found[name] = row
    return found


def main() -> None:
    """Measure and print, in percent; the mean of three draws of `random100`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--sets", nargs="+", required=True, help="feature files with class texts")
    asked = parser.parse_args()
    for name in asked.sets:
        seeds = range(3) if name == "random100" else range(1)
        draws = [figures(load(name, *asked.data, seed=seed), seed) for seed in seeds]
        for method in draws[0]:
            means = {
                key: 100 * statistics.mean(draw[method][key] for draw in draws)
                for key in draws[0][method]
            }
            line = "  ".join(f"{key} {value:5.1f}" for key, value in means.items())
            print(f"{name:10} {method:10}  {line}", flush=True)


if __name__ == "__main__":
    main()
