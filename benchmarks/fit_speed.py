"""Seconds of `fit auto` on features, beside scikit-learn and semi-supervised k-means.

    python benchmarks/fit_speed.py [--rows 10000]

The same synthetic features for all: rows around the texts of 100 classes, 512 wide. Logistic
regression as people run it: C of 0.01 to 100 by five-fold cross-validation. Semi-supervised k-means
as in GCD: 100 restarts here and there. Accuracy stands beside the seconds.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from growth import labels, rows
from jaxtyping import Float, Int
from side_by_side import seconds
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from anyclass.estimators.kmeans import semi_supervised_kmeans
from anyclass.estimators.metrics import assignment
from anyclass.estimators.open_world import OpenWorldClassifier

CLASSES = 100
Predicted = Int[np.ndarray, " N"]


def open_world(x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], t: Any) -> Predicted:
    """Names and labels."""
    return np.asarray(OpenWorldClassifier().fit(x, y, class_text=t).predict(x))


def discovering(x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], t: Any) -> Predicted:
    """Labels of half of the classes, the others unknown."""
    unknown = CLASSES - len(np.unique(y[y >= 0]))
    return np.asarray(OpenWorldClassifier(unknown=unknown).fit(x, y).predict(x))


def logistic_regression(x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], t: Any) -> Predicted:
    """scikit-learn's, on the labelled rows."""
    given = y >= 0
    grid = {"C": [0.01, 0.1, 1.0, 10.0, 100.0]}
    search = GridSearchCV(LogisticRegression(max_iter=1000), grid, cv=5)
    return np.asarray(search.fit(x[given], y[given]).predict(x))


def shrunk_lda(x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], t: Any) -> Predicted:
    """scikit-learn's, on the labelled rows."""
    given = y >= 0
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return np.asarray(model.fit(x[given], y[given]).predict(x))


def clustered(x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], t: Any) -> Predicted:
    """Semi-supervised k-means of GCD."""
    found = semi_supervised_kmeans(torch.from_numpy(x), torch.from_numpy(y), CLASSES)
    return found.labels.numpy()


Fit = Callable[[Any, Any, Any], Predicted]

LABELLED: dict[str, Fit] = {
    "fit auto": open_world,
    "logistic regression, C by cross-validation": logistic_regression,
    "shrunk LDA": shrunk_lda,
}
HALF_UNKNOWN: dict[str, Fit] = {
    "fit auto": discovering,
    "semi-supervised k-means": clustered,
}


def timed(
    fit: Fit, x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], t: Any
) -> tuple[float, Predicted]:
    """Seconds of a fit, and its classes."""
    predicted: list[Predicted] = []
    return seconds(lambda: predicted.append(fit(x, y, t))), predicted[0]


def measure(count: int = 10_000) -> list[dict[str, Any]]:
    """Rows of every class labelled by half, and of half of the classes unknown."""
    warnings.filterwarnings("ignore")
    x, t = rows(count, CLASSES)
    true = np.arange(count) % CLASSES
    found = []
    for what, known, fits in (
        ("every class labelled", CLASSES, LABELLED),
        ("half of the classes unknown", CLASSES // 2, HALF_UNKNOWN),
    ):
        y = labels(count, CLASSES, known)
        free = y < 0
        ours = None
        for name, fit in fits.items():
            took, predicted = timed(fit, x, y, t)
            ours = ours or took
            matched = assignment(true[free], predicted[free])
            found.append(
                {
                    "what": f"{name}; {count:,} x {x.shape[1]}, {CLASSES} classes, {what}",
                    "seconds": round(took, 2),
                    "times_faster": round(took / ours, 2),
                    "accuracy": round(float(np.mean(matched[predicted[free]] == true[free])), 3),
                }
            )
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000)
    for row in measure(parser.parse_args().rows):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
