"""What the tests of the open-world classifier share: a toy that every axis tells apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Toy:
    """N = 66 images of C = 4 classes, D = 9 features, H = 13 further ones, texts of all classes."""

    x: np.ndarray
    extra: np.ndarray
    truth: np.ndarray
    texts: np.ndarray

    def labels(self, *classes: int, each: int = 3) -> np.ndarray:
        """Labels of the first rows of these classes, -1 elsewhere."""
        y = np.full(len(self.truth), -1)
        for c in classes:
            y[np.flatnonzero(self.truth == c)[:each]] = c
        return y

    def names(self, *classes: int) -> np.ndarray:
        """Texts of these classes, NaN elsewhere."""
        texts = np.full_like(self.texts, np.nan)
        texts[list(classes)] = self.texts[list(classes)]
        return texts

    def given(self, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters, and y and class_text, of a kind of `KINDS`."""
        labelled, named, unknown = KINDS[kind]
        known = {*labelled, *named}
        data = {
            "y": self.labels(*labelled) if labelled else None,
            "class_text": self.names(*named)[: max(known) + 1] if named else None,
        }
        return {"unknown": unknown}, data | {"logit_scale": 20.0}


KINDS: dict[str, tuple[Sequence[int], Sequence[int], int]] = {
    "names": ((), (0, 1, 2, 3), 0),
    "labels": ((0, 1, 2, 3), (), 0),
    "labels and names": ((0, 1, 2, 3), (0, 1, 2, 3), 0),
    "labels or names": ((1, 3), (0, 1, 2, 3), 0),
    "names for some": ((0, 1, 3), (1, 2), 0),
    "unknown": ((), (), 4),
    "unknown and labels": ((0, 1), (), 2),
    "unknown and names": ((), (0, 1), 2),
    "unknown and both": ((1,), (0, 1, 2), 1),
}
"""Classes with labels, classes with names, and the number of unknown classes."""


@pytest.fixture(scope="session")
def toy() -> Callable[..., Toy]:
    """`toy(seed, noise)`."""

    def make(seed: int = 0, noise: float = 0.5) -> Toy:
        draw = np.random.default_rng(seed)
        truth = draw.permutation(np.repeat(np.arange(4), [15, 16, 17, 18]))
        centres = draw.normal(size=(4, 9))
        x = 1 + centres[truth] + noise * draw.normal(size=(66, 9))
        texts = centres + 0.5 * draw.normal(size=(4, 9)) - 1
        extra = draw.normal(size=(4, 13))[truth] + noise * draw.normal(size=(66, 13))
        return Toy(*(a.astype(np.float32) for a in (x, extra)), truth, texts.astype(np.float32))

    return make
