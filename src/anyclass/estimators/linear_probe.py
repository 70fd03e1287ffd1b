"""Linear probe: logistic regression on frozen features of labelled images, the usual control.

    argmin_W,b  1/2 |W|^2 + C sum_i cross-entropy(y_i, W (x_i - m) / l + b)

m is the mean of the labelled rows and l their root mean square distance from it, so that C, which
is fixed, means the same for every model.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from anyclass.estimators.linear import Linear

C = 10.0
"""C."""
MAX_ENTRIES = 2_000_000
"""Maximum number of labelled rows times classes; more rows are drawn at random."""
MIN_PER_CLASS = 10
"""Mean number of rows per class below which none are left out: there is no probe then."""
MAX_ITERATIONS = 300
"""Maximum number of steps of the solver."""
NEVER_PREDICTED = -1e4
"""Bias of a class without a label."""


def linear_probe(
    x: Float[Tensor, "n D"], labels: Int[Tensor, " n"], classes: int, seed: int = 0
) -> Linear | None:
    """Fit the probe; None if fewer than two classes have a label, or very many.

    Args:
        x: features of labelled images.
        labels: their classes.
        classes: number of classes; those without a label are never predicted.
        seed: random seed of the rows that are drawn if there are very many.
    """
    from sklearn.linear_model import LogisticRegression

    present = labels.unique().numpy()
    if len(present) < 2:
        return None
    rows = np.arange(len(x))
    most = MAX_ENTRIES // len(present)
    if len(rows) > most:
        if most < MIN_PER_CLASS * len(present):
            return None
        rows = np.random.default_rng(seed).permutation(rows)[:most]
    fitted = x[rows].double().numpy()
    y = labels[rows].numpy()
    middle = fitted.mean(0)
    level = float(np.sqrt(np.square(fitted - middle).sum(1).mean())) or 1.0
    model = LogisticRegression(C=C, max_iter=MAX_ITERATIONS)
    with threadpool_limits(1):  # several threads are slower on a busy machine
        model.fit((fitted - middle) / level, y)
    weights = torch.zeros(classes, x.shape[1])
    bias = torch.full((classes,), NEVER_PREDICTED)
    found = np.asarray(model.coef_)
    shift = np.asarray(model.intercept_)
    if len(model.classes_) == 2:  # scikit-learn stores the second of two classes alone
        found = np.concatenate([-found / 2, found / 2])
        shift = np.concatenate([-shift / 2, shift / 2])
    weights[model.classes_] = torch.from_numpy(found / level).float()
    bias[model.classes_] = torch.from_numpy(shift - found @ middle / level).float()
    return Linear(weights, bias)
