"""Figures of an answer to a task of `open_world.py`.

An answer is probabilities (n, K) of the test images, or predicted classes (n,), or scores (n,).
Known classes come first, then clusters. Letters: n test images, K classes.
"""

import numpy as np
from feature_sets import Task
from result_tables import Metrics

from anyclass.estimators.metrics import assignment, clustering, expected_calibration_error


def accuracy(task: Task, answer: np.ndarray) -> Metrics:
    """Accuracy and calibration error."""
    right = classes_of(answer) == task.data.test_y
    return {"accuracy": float(right.mean())} | calibration(task.data.test_y, answer)


def parts(task: Task, answer: np.ndarray) -> Metrics:
    """Accuracy of labelled, named and unknown classes among all, and their harmonic mean, H."""
    true = task.data.test_y
    right = renumbered(answer, _clusters_matched(task, classes_of(answer)))
    correct = classes_of(right) == true
    found = {part: float(correct[mask].mean()) for part, mask in task.parts.items()}
    harmonic = len(found) / sum(1 / max(value, 1e-9) for value in found.values())
    figures = {"H": harmonic, "accuracy": float(correct.mean())} | found
    return figures | calibration(true, right)


def clusters(task: Task, answer: np.ndarray) -> Metrics:
    """Clustering accuracy of all, old (known) and new classes; known classes as they are."""
    true = task.data.test_y
    found = clustering(true, classes_of(answer), range(task.known)) or {}
    figures = {key: float(found[key]) for key in ("all", "old", "new", "old_fixed")}
    return figures | calibration(true, renumbered(answer, np.array(found["assignment"])))


def renumbered(answer: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Probabilities or predicted classes with class i called `number[i]`, a permutation."""
    if answer.ndim == 1:
        return np.asarray(number[answer])
    unused = np.arange(len(number), answer.shape[1])
    columns = np.concatenate([number, unused])
    renamed = np.zeros((len(answer), len(columns)), answer.dtype)
    renamed[:, columns[: answer.shape[1]]] = answer
    return renamed


def _clusters_matched(task: Task, guess: np.ndarray) -> np.ndarray:
    """Class of each predicted class: known ones stay, clusters are matched to unknown classes."""
    size = max(int(guess.max()) + 1, task.data.classes)
    hidden = (task.data.test_y >= task.known) & (guess >= task.known)
    number = np.arange(size)
    if hidden.any():
        found = assignment(task.data.test_y[hidden] - task.known, guess[hidden] - task.known)
        rest = np.arange(len(found), size - task.known)
        number[task.known :] = task.known + np.concatenate([found, rest])
    return number


def counted(task: Task, answer: np.ndarray) -> Metrics:
    """The number of classes beside clustering accuracy."""
    k = answer.shape[1] if answer.ndim > 1 else int(answer.max()) + 1
    true = task.data.classes
    return clusters(task, answer) | {"k": k / 100, "factor": max(k, true) / min(k, true) / 100}


def auroc(task: Task, answer: np.ndarray) -> Metrics:
    """Area under the ROC curve of "none of the known classes"."""
    from sklearn.metrics import roc_auc_score

    return {"auroc": float(roc_auc_score(task.parts["unknown"], answer))}


def calibration(true: np.ndarray, answer: np.ndarray) -> Metrics:
    """Expected calibration error of probabilities, 15 bins; nothing for predicted classes."""
    if answer.ndim == 1:
        return {}
    value = expected_calibration_error(true, answer)
    return {} if value is None else {"ece": value}


def classes_of(answer: np.ndarray) -> np.ndarray:
    """Predicted classes of probabilities, or the answer itself."""
    return answer.argmax(1) if answer.ndim > 1 else answer
