"""Baselines on arrays of features where every class has labels or a name.

Each is a function from a `Task` to probabilities of the test images (n, C). Feature files hold one
row per image and no augmented views: where a paper averages or draws views, the row is the only
view. No setting is chosen on test labels. Where a paper searches a validation set:

    logistic regression   C by cross-validation of the labelled rows; 10 with one row per class
    GDA                   alpha by cross-validation as well; 1 with one row per class
    Tip-Adapter-F         alpha and beta by cross-validation before training; the paper's 1 and 5.5
                          with one row per class
    CLIP-Adapter          the released residual ratio 0.2
    LP++                  the released code without its early stop: 300 steps

Where some classes have a name alone, half of the labelled ones play them in cross-validation.

Letters: N training images, n test images, C classes, D dimensions, f or x unit features, t text
features, s logit scale, k labelled rows.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from baseline_tuning import folds_of, splits
from feature_sets import FeatureSet, Task, unit
from gaussian_em import GaussianEM
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from anyclass.classifier.heads import Adapter, CacheModel, init_linear
from anyclass.estimators.kmeans import class_means
from anyclass.estimators.linear import Linear
from anyclass.methods.gda import discriminant, neighbourhood, ridge
from anyclass.methods.labelled_features import LabelledFeatures
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch
from anyclass.training.loop import optimise
from anyclass.training.optim import AdamW, LearningRate

Probabilities = Float[np.ndarray, "n C"]

GRID_C = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
"""Values of C of logistic regression, for rows of mean square 1."""

FIXED_C = 10.0
"""C with one row per class, where nothing can be held out."""

ALPHAS = tuple(10.0**power for power in range(-4, 3))
"""Values of alpha of GDA (released code)."""

CACHE = (1.0, 5.5)
"""Tip-Adapter's alpha and beta with one row per class (paper)."""

CACHE_ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Values of alpha of Tip-Adapter."""

BETAS = (1.0, 2.0, 5.5, 12.0, 25.0)
"""Values of beta of Tip-Adapter."""

LARGE = 2e8
"""Rows x classes x dimensions above which one fold and fewer epochs are used."""


def silent(**_: Any) -> None:
    """Take a row of a log and keep nothing."""


def zero_shot(task: Task) -> Probabilities:
    """softmax(s x . t)."""
    return softmax(task.data.scale * task.data.test_x @ texts(task).T)


def logistic_regression(task: Task, space: str = "x") -> Probabilities:
    """Logistic regression on labelled rows, C by cross-validation."""
    fitted, test, y = labelled_rows(task, space)
    middle = fitted.mean(0)
    level = np.sqrt(np.square(fitted - middle).sum(1).mean())
    rows = (fitted - middle) / level
    c = _best_c(rows, y, task.seed)
    model = _regression(c).fit(rows, y)
    columns = np.zeros((len(test), task.known), np.float32)
    columns[:, model.classes_] = model.predict_proba((test - middle) / level)
    return columns


def shrunk_lda(task: Task, space: str = "x") -> Probabilities:
    """Linear discriminant analysis, covariance within classes shrunk by Ledoit and Wolf.

    With one row per class it is the nearest class mean: the covariance is a multiple of the
    identity with half of the total variance.
    """
    from sklearn.covariance import ledoit_wolf

    fitted, test, y = labelled_rows(task, space)
    counts = np.bincount(y, minlength=task.known)
    means = _means(fitted, y, task.known)
    residuals = fitted - means[y]
    free = len(y) - int((counts > 0).sum())
    total = float(np.square(fitted - fitted.mean(0)).sum(1).mean()) / fitted.shape[1]
    sigma = total / 2 * np.eye(fitted.shape[1])
    if free > 0:
        sigma = ledoit_wolf(residuals, assume_centered=True)[0] * len(y) / free
    weights = np.linalg.solve(sigma, means.T)
    logits = test @ weights - np.einsum("cd,dc->c", means, weights) / 2
    logits[:, counts == 0] = -np.inf
    return softmax(logits)


def tip_adapter_f(task: Task) -> Probabilities:
    """Tip-Adapter-F: a cache model whose keys are trained for 20 epochs."""
    labelled = _labelled(task)
    t = torch.from_numpy(texts(task))
    alpha, beta = _best_cache(task, labelled, t)
    keys = nn.Parameter(labelled.means.clone())
    ones = torch.ones(len(keys))
    head = CacheModel(keys, labelled.c, ones, alpha, beta, t, task.data.scale)
    _train(head.logits, {"keys": keys}, labelled, 20, task.seed)
    return _of(head.logits, task)


def clip_adapter(task: Task, ratio: float = 0.2, epochs: int = 200) -> Probabilities:
    """CLIP-Adapter: a residual bottleneck of two layers on the feature."""
    labelled = _labelled(task)
    t = torch.from_numpy(texts(task))
    d = t.shape[1]
    rng = seeded_rng(task.seed)
    w1 = nn.Parameter(init_linear(d // 4, d, rng))
    w2 = nn.Parameter(init_linear(d, d // 4, rng))
    head = Adapter(w1, w2, ratio, t, task.data.scale)
    if len(labelled.c) * task.known * d > LARGE:
        epochs = epochs // 4
    _train(head.logits, {"w1": w1, "w2": w2}, labelled, epochs, task.seed)
    return _of(head.logits, task)


def gda(task: Task) -> Probabilities:
    """GDA; classes with a name alone use the rows nearest to their text."""
    x, _, y = labelled_rows(task)
    t = torch.from_numpy(texts(task))
    logits = torch.from_numpy(task.data.scale * task.data.test_x) @ t.T
    g = _gaussians(torch.from_numpy(x), torch.from_numpy(y), t)
    alpha = _best_alpha(task, x, y, t)
    return softmax((logits + alpha * g.logits(torch.from_numpy(task.data.test_x))).numpy())


def lp_plus_plus(task: Task, steps: int = 300) -> Probabilities:
    """LP++ (Huang et al., CVPR 2024, arXiv 2404.02285): f . (w_c + alpha_c t_c).

    Starts at w_c = sum of the rows of class c and alpha_c = 250 mean(f . t_y) for a scale of 100.
    Step sizes from Lipschitz constants: 4 N / lambda_max(F^T F) for w, with momentum 0.9, and
    N / (4 max_c sum (f . t_c)^2) for alpha, in every tenth step.
    """
    x, _, y = labelled_rows(task)
    f = torch.from_numpy(x)
    c = torch.from_numpy(y)
    t = torch.from_numpy(texts(task))
    n = len(f)
    cosines = f @ t.T
    w = torch.zeros_like(t).index_add(0, c, f)
    bias = torch.zeros(len(t))
    own = cosines.gather(1, c[:, None]).mean()
    alpha = 2.5 * task.data.scale * own * torch.ones(len(t))
    rate = 4 * n / float(torch.linalg.eigvalsh(f.T @ f)[-1])
    rate_alpha = n / float(4 * cosines.square().sum(0).max())
    speed_w = torch.zeros_like(w)
    speed_bias = torch.zeros_like(bias)
    truth = one_hot(c, len(t)).float()
    for step in range(steps):
        logits = f @ w.T + bias + alpha * cosines
        error = (logits.softmax(1) - truth) / n  # gradient of the loss by the logits
        speed_w = 0.9 * speed_w + error.T @ f
        speed_bias = 0.9 * speed_bias + error.sum(0)
        w = w - rate * speed_w
        bias = bias - rate * speed_bias
        if step % 10 == 9:
            alpha = alpha - rate_alpha * (error * cosines).sum(0)
    test = torch.from_numpy(task.data.test_x)
    return softmax((test @ w.T + bias + alpha * (test @ t.T)).numpy())


def ship_plus(task: Task) -> Probabilities:
    """0.1's `ship-plus`: one EM round of a Gaussian per class beside the text logits."""
    return _gaussian_em(task, GaussianEM(rounds=1, weight=8.0), task.y)


def latteclip_plus(task: Task) -> Probabilities:
    """0.1's `latteclip-plus`, which ignores labels."""
    return _gaussian_em(task, GaussianEM(), np.full_like(task.y, -1))


class Method(NamedTuple):
    """A method, and what a set must have for it."""

    run: Callable[[Task], np.ndarray]
    """Probabilities (n, C) of the test images, or predicted classes (n,), or scores (n,)."""
    needs: str = ""
    """Any of `text`, `no-text`, `h` (backbone features), `negatives`, `model`, with spaces."""

    def applies(self, data: FeatureSet) -> bool:
        """Whether the set has what the method needs."""
        have = {
            "text": data.text is not None,
            "no-text": data.text is None,
            "h": data.train_h is not None,
            "negatives": data.negatives is not None,
            "model": bool(data.model and data.names),
        }
        return all(have[need] for need in self.needs.split())


NAMES_ONLY = {
    "zero-shot": Method(zero_shot, "text"),
    "latteclip-plus (0.1)": Method(latteclip_plus, "text"),
}
"""Baselines of names without a label."""

FEW_SHOT = {
    "zero-shot": Method(zero_shot, "text"),
    "logistic regression": Method(logistic_regression),
    "logistic regression, h": Method(partial(logistic_regression, space="h"), "h"),
    "shrunk LDA": Method(shrunk_lda),
    "shrunk LDA, h": Method(partial(shrunk_lda, space="h"), "h"),
    "Tip-Adapter-F": Method(tip_adapter_f, "text"),
    "CLIP-Adapter": Method(clip_adapter, "text"),
    "GDA": Method(gda, "text"),
    "LP++": Method(lp_plus_plus, "text"),
    "ship-plus (0.1)": Method(ship_plus, "text"),
}
"""Baselines of a few labels for every class."""

HALF = {
    name: FEW_SHOT[name]
    for name in ("zero-shot", "Tip-Adapter-F", "CLIP-Adapter", "GDA", "ship-plus (0.1)")
}
"""Baselines of labels for some classes and names for the others."""


def softmax(logits: np.ndarray) -> Probabilities:
    """Probabilities as float32."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    scaled: np.ndarray = (shifted / shifted.sum(1, keepdims=True)).astype(np.float32)
    return scaled


def texts(task: Task) -> Float[np.ndarray, "C D"]:
    """Text features of the known classes.

    Raises:
        ValueError: the set has none.
    """
    if task.text is None:
        raise ValueError(f"{task.data.name} has no text features")
    return task.text


def rows_of(task: Task, space: str = "x") -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows: `x` as they are, `h` with unit length (x without backbone features).

    `h raw` is h as it is.
    """
    data = task.data
    if space == "x" or data.train_h is None or data.test_h is None:
        return data.train_x, data.test_x
    if space == "h raw":
        return data.train_h, data.test_h
    return unit(data.train_h), unit(data.test_h)


def labelled_rows(
    task: Task, space: str = "x"
) -> tuple[Float[np.ndarray, "k D"], Float[np.ndarray, "n D"], Int[np.ndarray, " k"]]:
    """Labelled training rows, test rows, labels."""
    train, test = rows_of(task, space)
    given = task.y >= 0
    return train[given], test, task.y[given]


def _best_c(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """C with the best held-out accuracy; ties by log-loss."""
    if np.bincount(y).max() < 2:
        return FIXED_C
    large = x.size * (y.max() + 1) > LARGE
    scores: dict[float, list[tuple[float, float]]] = {c: [] for c in GRID_C}
    for held in list(folds_of(y, seed))[: 1 if large else None]:
        model = _regression(GRID_C[0], warm_start=True)
        for c in GRID_C:
            model.set_params(C=c).fit(x[~held], y[~held])
            scores[c].append(_score(model, x[held], y[held]))
    return max(GRID_C, key=lambda c: tuple(np.mean(scores[c], axis=0)))


def _score(model: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy and negative log-loss."""
    p = model.predict_proba(x)
    column = np.searchsorted(model.classes_, y)
    own = p[np.arange(len(y)), column]
    return float((p.argmax(1) == column).mean()), float(np.log(own + 1e-9).mean())


def _regression(c: float, warm_start: bool = False) -> Any:
    from sklearn.linear_model import LogisticRegression

    for message in ("lbfgs failed to converge", "The number of unique classes"):
        warnings.filterwarnings("ignore", message=message)
    return LogisticRegression(C=c, max_iter=100, tol=1e-6, warm_start=warm_start)


def _means(x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Mean row of each class; zero for a class without rows."""
    found: np.ndarray = class_means(torch.from_numpy(x), torch.from_numpy(y), classes).numpy()
    return found


def _labelled(task: Task) -> LabelledFeatures:
    """Labelled rows as images with one view."""
    x, _, y = labelled_rows(task)
    names = tuple(str(i) for i in range(len(y)))
    return LabelledFeatures(torch.from_numpy(x)[:, None], torch.from_numpy(y), names)


def _train(
    logits: Callable[[Tensor], Tensor],
    parameters: Mapping[str, nn.Parameter],
    labelled: LabelledFeatures,
    epochs: int,
    seed: int,
) -> None:
    """Minimise the cross-entropy of labelled rows over the classes that have some."""
    columns = labelled.classes

    def loss(batch: Batch) -> dict[str, Float[Tensor, ""]]:
        y = torch.searchsorted(columns, labelled.c[batch.index])
        return {"loss": cross_entropy(logits(batch.hidden)[:, columns], y)}

    batches = labelled.batches(256, epochs, seed)
    optimise(loss, parameters, batches, AdamW(LearningRate(1e-3), eps=1e-4), silent)


@torch.no_grad()
def _of(logits: Callable[[Tensor], Tensor], task: Task) -> Probabilities:
    """Probabilities of the test images."""
    return softmax(logits(torch.from_numpy(task.data.test_x)).numpy())


def _gaussians(x: Float[Tensor, "k D"], c: Int[Tensor, " k"], t: Float[Tensor, "C D"]) -> Linear:
    """Log densities of GDA: labelled classes by their rows, the others by rows near their text."""
    if int(c.bincount().max()) > 1:
        p = ridge(x, c)
    else:  # one row per class: a multiple of the identity, as Eq. 4 for rows of half the variance
        level = (x - x.mean(0)).square().sum(1).mean() / 2
        d = x.shape[1]
        p = torch.eye(d) * d / (level * (1 + (len(x) - 1) / d))
    mu = class_means(x, c, len(t))
    g = discriminant(mu, p)
    named = (c.bincount(minlength=len(t)) == 0).nonzero()[:, 0]
    if not len(named):
        return g
    estimates = [neighbourhood(x, t[i], 64, 16) for i in named]
    mu[named] = torch.stack([estimate.mu for estimate in estimates])
    other = discriminant(mu, torch.stack([estimate.precision for estimate in estimates]).mean(0))
    weights = g.weights.clone()
    bias = g.intercept.clone()
    weights[named] = other.weights[named]
    bias[named] = other.intercept[named]
    return Linear(weights, bias)


def _best_alpha(task: Task, x: np.ndarray, y: np.ndarray, t: Float[Tensor, "C D"]) -> float:
    """GDA's alpha with the best held-out score, the smallest of equals."""
    scores = np.zeros(len(ALPHAS))
    for split in splits(task, y):
        held = torch.from_numpy(x[split.held])
        columns = torch.from_numpy(split.columns)
        kept = torch.from_numpy(np.searchsorted(split.columns, y[split.kept]))
        g = _gaussians(torch.from_numpy(x[split.kept]), kept, t[columns]).logits(held)
        logits = task.data.scale * held @ t[columns].T
        guesses = [(logits + alpha * g).argmax(1).numpy() for alpha in ALPHAS]
        scores += [split.score(guess) for guess in guesses]
    return ALPHAS[int(scores.argmax())] if scores.any() else 1.0


def _best_cache(
    task: Task, labelled: LabelledFeatures, t: Float[Tensor, "C D"]
) -> tuple[float, float]:
    """Tip-Adapter's alpha and beta with the best held-out score, before training."""
    scores = np.zeros((len(BETAS), len(CACHE_ALPHAS)))
    x = labelled.means
    for split in splits(task, labelled.c.numpy()):
        columns = torch.from_numpy(split.columns)
        text_logits = task.data.scale * x[split.held] @ t[columns].T
        distance = 1 - x[split.held] @ x[split.kept].T
        position = torch.searchsorted(columns, labelled.c[split.kept])
        values = one_hot(position, len(columns)).float()
        for i, beta in enumerate(BETAS):
            cache_logits = (-beta * distance).exp() @ values
            for j, alpha in enumerate(CACHE_ALPHAS):
                guess = (text_logits + alpha * cache_logits).argmax(1)
                scores[i, j] += split.score(guess.numpy())
    if not scores.any():
        return CACHE
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    return CACHE_ALPHAS[column], BETAS[row]


@torch.no_grad()
def _gaussian_em(task: Task, em: GaussianEM, y: np.ndarray) -> Probabilities:
    train, test = (torch.from_numpy(rows) for rows in rows_of(task, "h raw"))
    t = torch.from_numpy(texts(task))
    logits = task.data.scale * torch.from_numpy(task.data.train_x) @ t.T
    mean = train.mean(0)
    learned = em.learn(logits, train - mean, torch.from_numpy(y), silent, task.seed)
    g = learned.uncentred(mean).logits(test)
    return softmax((task.data.scale * torch.from_numpy(task.data.test_x) @ t.T + g).numpy())
