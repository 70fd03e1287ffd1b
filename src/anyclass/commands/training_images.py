"""Probabilities of the training images of a run, for an edit that changes predictions."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from anyclass.classifier.class_edits import ClassEdits, EditedClasses
from anyclass.classifier.two_means import two_means
from anyclass.commands.run_images import ImageRows, image_rows
from anyclass.data import ImageDataset
from anyclass.run.folder import PROBABILITIES
from anyclass.run.probabilities import ImageProbabilities, read_probabilities, write_probabilities
from anyclass.run.progress import Progress


class TrainingImages:
    """Probabilities and rows of M training images, read or computed where they are needed."""

    def __init__(
        self, run: Path, files: Sequence[str], before: ClassEdits, images: ImageDataset | None
    ) -> None:
        """Compute nothing yet.

        Args:
            run: the run folder.
            files: the readable images.
            before: edits of the classes so far.
            images: the images, if they are in memory.
        """
        self._run = run
        self._files = files
        self._before = before
        self._images = images
        self._found: ImageProbabilities | None = None
        self._are_new = False

    @cached_property
    def _rows(self) -> ImageRows:
        """Rows of the images, by the model of the run."""
        with Progress() as log:
            return image_rows(self._run, self._files, log, self._images)

    def _fitted(self) -> ImageProbabilities:
        """Stored probabilities; else those of the classifier, which are then stored."""
        if self._found is None:
            path = self._run / PROBABILITIES
            stored = read_probabilities(path, len(self._files), self._before)
            self._are_new = stored is None
            self._found = self._rows.probabilities(self._before) if stored is None else stored
        return self._found

    def probabilities(self, edits: ClassEdits) -> Float[np.ndarray, "M C"]:
        """Probabilities of edited classes."""
        found: Float[np.ndarray, "M C"] = self._fitted().of(edits).numpy()
        return found

    def gate(self, classes: EditedClasses, name: str) -> Float[np.ndarray, " F"]:
        """Gate that divides a class by 2-means of the images that are predicted as it."""
        c = classes.discovered(name, "split")
        found = self._fitted()
        predicted = found.of(classes.edits).argmax(1)
        rows = self._rows.rows
        gate = two_means(rows[predicted == c])
        g = rows @ gate[:-1] + gate[-1]
        kept = found.gates[:, : len(classes.edits.gates)]
        self._found = found._replace(gates=torch.cat([kept, g[:, None]], dim=1))
        self._are_new = True
        return gate.numpy()

    def write(self, folder: Path) -> None:
        """Write the probabilities, unless the run has them already."""
        if self._are_new:
            write_probabilities(folder / PROBABILITIES, self._fitted())
