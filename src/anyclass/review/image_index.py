"""Features and probabilities of all images of a run, computed in the background.

What needs the model waits for it here: the most probable classes of an image, predictions of
new images with the nearest images of the run, and the choice of images to label next.
"""

from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.backbone.engine import Engine, engine
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.heads import edits_of
from anyclass.classifier.precomputed import feature_rows
from anyclass.classifier.representation import Representation, unit_features
from anyclass.errors import AnyclassError, printable
from anyclass.estimators.active_learning import most_useful
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.store import FeatureStore
from anyclass.review.catalogue import Catalogue
from anyclass.run.folder import PROBABILITIES
from anyclass.run.probabilities import read_probabilities

TOP = 9
"""Most probable classes that are kept of each image: one for each number key."""

BATCH = 16
"""New images that are predicted at a time."""

PATIENCE = 10.0
"""Seconds that a prediction waits for the features of the run, if nearest images are asked for."""

Load = Callable[[], tuple[Backbone, Classifier]]
"""Loads the model before training and the classifier of a run."""


class IndexedImages(NamedTuple):
    """Features and probabilities of the n readable images of a run."""

    row: Int[np.ndarray, " n"]
    """Row of each in the catalogue."""
    features: Float[np.ndarray, "n D"]
    """Unit features."""
    top: Int[np.ndarray, "n T"]
    """Its most probable classes."""
    probability: Float[np.ndarray, "n T"]
    """Their probabilities."""
    at: dict[int, int]
    """Row in the catalogue -> row here."""


class ImagePrediction(NamedTuple):
    """Prediction of a new image."""

    label: str | None
    """The most probable class; None if it was rejected."""
    classes: list[str]
    """Names of the most probable classes."""
    probabilities: list[float]
    """Their probabilities."""
    familiarity: float | None
    """Share of the training images that are at least as unusual; None: not known."""
    nearest: list[int]
    """Rows of the nearest images of the run, in the catalogue."""
    similarities: list[float]
    """Their cosine similarities."""


class _Stopped(Exception):  # noqa: N818 (no error: the index is no longer wanted)
    """Raised inside the thread to end it."""


class ImageIndex:
    """Model and features of one run; started once, safe to use from several threads."""

    def __init__(self, catalogue: Catalogue, load: Load) -> None:
        """Keep the arguments; `start` begins to compute."""
        self._catalogue = catalogue
        self._load = load
        self._predictor: _Predictor | None = None
        self._loaded = Event()
        self._stop = Event()
        self._lock = Lock()
        self.ready: IndexedImages | None = None
        """Features and probabilities, once they are computed."""
        self.error = ""
        """Why they cannot be computed."""
        self.done = 0
        self.total = 0
        self._thread = Thread(target=self._run, name="image-index", daemon=True)

    def start(self) -> None:
        """Load the model and compute the features, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread at the next batch of images."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until all is computed, or failed."""
        self._thread.join(seconds)

    @property
    def shorter_side(self) -> int:
        """Pixels that decoding leaves the shorter side of a JPEG, 0: all; waits for the model."""
        self._loaded.wait()
        return 0 if self._predictor is None else self._predictor.preprocessing.shorter_side

    def message(self) -> str:
        """What is going on, for people; empty when all is ready."""
        if self.error:
            return self.error
        if self.ready is not None:
            return ""
        if self.total:
            return f"computing features: {self.done} of {self.total} images"
        return "loading the model"

    def top(self, i: int) -> list[tuple[int, float]]:
        """Most probable classes of image i with their probabilities; empty before `ready`."""
        ready = self.ready
        if ready is None or i not in ready.at:
            return []
        at = ready.at[i]
        pairs = zip(ready.top[at].tolist(), ready.probability[at].tolist(), strict=True)
        return list(pairs)

    def useful(self, candidate: Callable[[int], bool], count: int) -> list[int]:
        """Rows of the images whose label would teach most; empty before `ready`.

        Args:
            candidate: whether an image may be chosen.
            count: how many to choose.
        """
        ready = self.ready
        if ready is None:
            return []
        second = ready.probability[:, 1] if ready.probability.shape[1] > 1 else 0.0
        margin = ready.probability[:, 0] - second
        free: Bool[np.ndarray, " n"] = np.array([candidate(int(i)) for i in ready.row], bool)
        chosen = most_useful(ready.features, margin, free, count)
        rows: list[int] = ready.row[chosen].tolist()
        return rows

    def predict(
        self, images: Sequence[Image.Image], top: int, nearest: int
    ) -> list[ImagePrediction]:
        """Predict new images; waits for the model.

        Args:
            images: RGB images.
            top: how many classes to return.
            nearest: how many of the nearest images of the run to return; none if they
                are not computed in time.

        Raises:
            AnyclassError: the model cannot be loaded.
        """
        self._loaded.wait()
        if nearest:
            self.wait(PATIENCE)
        predictor = self._predictor
        if predictor is None:
            raise AnyclassError(self.error)
        predictions = []
        with self._lock:  # one batch at a time: memory stays bounded
            for start in range(0, len(images), BATCH):
                rows = predictor.rows(images[start : start + BATCH])
                predictions += self._predictions(predictor, rows, top, nearest)
        return predictions

    def _predictions(
        self, predictor: "_Predictor", rows: Float[Tensor, "n E"], top: int, nearest: int
    ) -> list[ImagePrediction]:
        classifier = predictor.classifier
        classes = classifier.classes  # those of the page may be edited meanwhile
        best = classifier.probabilities(rows).cpu().topk(min(top, len(classes)))
        familiarity = classifier.familiarity(rows)
        usual = [None] * len(rows) if familiarity is None else familiarity.tolist()
        near, similar = self._nearest(predictor.comparable(rows), nearest)
        found = []
        for i, indices in enumerate(best.indices.tolist()):
            names = [classes.names[c] for c in indices]
            probabilities = best.values[i].tolist()
            label = classes.label(indices[0])
            row = ImagePrediction(label, names, probabilities, usual[i], near[i], similar[i])
            found.append(row)
        return found

    def _nearest(
        self, x: Float[np.ndarray, "n D"], count: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Rows of the nearest images of the run, and their similarities."""
        ready = self.ready
        if ready is None or not count:
            nothing: list[list[Any]] = [[] for _ in x]
            return nothing, nothing
        similarity = x @ ready.features.T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        rows = ready.row[order].tolist()
        return rows, np.take_along_axis(similarity, order, axis=1).tolist()

    def _run(self) -> None:
        try:
            base, classifier = self._load()
            self._predictor = _Predictor(classifier)
            self._loaded.set()
            self.ready = self._compute(base, self._predictor)
        except _Stopped:
            self.error = "stopped"
        except AnyclassError as error:
            self.error = printable(str(error))
        except Exception as error:  # the page goes on without the model
            self.error = printable(f"{type(error).__name__}: {error}")
        finally:
            self._loaded.set()

    def _compute(self, base: Backbone, predictor: "_Predictor") -> IndexedImages:
        """Features and probabilities of the images that can be read."""
        dataset, rows = self._catalogue.dataset()
        store = FeatureStore(base, dataset)
        representation = predictor.representation
        found = store.embed(Embedding(cached_part(representation.part)), self._log)
        store = store.of(dataset[found.ok])
        row = np.array(rows, np.int64)[found.ok]
        saved = self._saved(predictor.classifier, found.ok)
        features = []
        top = []
        probability = []
        done = 0
        for block in feature_rows(representation, store, self._log):
            if saved is None:
                p = predictor.classifier.probabilities(block).cpu()
            else:
                p = saved[done : done + len(block)]
            best = p.topk(min(TOP, p.shape[1]))
            features.append(predictor.comparable(block))
            top.append(best.indices.numpy())
            probability.append(best.values.numpy())
            done += len(block)
        return IndexedImages(
            row,
            np.concatenate(features),
            np.concatenate(top),
            np.concatenate(probability),
            {int(i): at for at, i in enumerate(row)},
        )

    def _saved(
        self, classifier: Classifier, readable: Bool[np.ndarray, " M"]
    ) -> Float[Tensor, "n C"] | None:
        """Probabilities that the scores of the run come from; None: the classifier's are as good.

        In a run with discovered classes those of the fit have a temperature of their own.

        Args:
            classifier: the classifier of the run.
            readable: which of the M images that the run could read can be read now; n of them.
        """
        edits = edits_of(classifier.head, len(classifier.classes))
        found = read_probabilities(self._catalogue.run / PROBABILITIES, len(readable), edits)
        return None if found is None else found.of(edits)[readable]

    def _log(self, **numbers: Any) -> None:
        """Note the progress of embedding."""
        if self._stop.is_set():
            raise _Stopped
        if numbers.get("stage") == "embed":
            self.done = numbers["done"]
            self.total = numbers["total"]


class _Predictor:
    """A classifier that is ready for images in memory."""

    def __init__(self, classifier: Classifier) -> None:
        representation = classifier.representation
        if not isinstance(representation, Representation):
            raise AnyclassError("the run was fitted on features and has no model of images")
        self.classifier = classifier
        self.representation = representation
        self._part = representation.part or "head"
        self._trunk: Engine = engine(representation.clip, self._part)
        self.preprocessing = representation.clip.preprocessing
        self._width = representation.comparable_width

    @torch.no_grad()
    def rows(self, images: Sequence[Image.Image]) -> Float[Tensor, "n E"]:
        """Rows of the representation."""
        views = torch.stack([self.preprocessing.view(image) for image in images])
        return self.representation.rows(self._trunk.run(views), self._part)

    def comparable(self, rows: Float[Tensor, "n E"]) -> Float[np.ndarray, "n D"]:
        """Unit features to compare images by: rows without what follows the projection."""
        return unit_features(rows, self._width)
