"""Open-world classifier: labelled, named and unknown classes in any mix.

The project's own, after TransCLIP (arXiv 2406.01837), GDA (arXiv 2402.04087), LP++ (arXiv
2404.02285) and semi-supervised k-means (arXiv 2201.02609). The name of the task is ORCA's (arXiv
2102.03526).

    l_c(x) = s x . (t_c - mean t) + b_c                 text expert; b: `text_expert.py`
    g_c(h) = Gaussian expert of the labelled images     `gaussian_expert.py`
    G_c(h) = Gaussian expert of all images              labelled ones by label, others by z
    L_c    = a l + u g + w G + d e + d' e'              logits
    z_ic   = softmax_c( q L_c(i) )                      E step; q: sharpness, G of the other folds
    a, u, w, d, d'                                      stacking by held-out labels: `stacking.py`

e marks the labelled classes where others have only a name, e' the named classes where others have
only labels. Labels are held out in folds, and where classes have only a name, so are all labels of
some named classes at a time (`cross_fitting.py`). The whole EM is run once without the labels of
each fold, so that no label takes part in its own prediction, except that all labels choose the
weights. Without any label, a = 1, and w minimises the log-loss of G against the text expert, times
N / (N + 10 C).

Where classes are unknown, all images are divided into K classes first (`discovery.py`); the experts
above tell the known ones apart, and another one known from unknown ones (`discovery_expert.py`).
Texts of other nouns help with that, and with the score of "none of the classes"
(`negative_texts.py`).

Letters: N images, C known classes, K all classes, D and H dimensions, x (N, D) unit features,
h (N, H) centred further features, by default x; t (C, D) unit text features.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from anyclass.errors import ArrayError
from anyclass.estimators.discovery import Discovered
from anyclass.estimators.discovery_calibration import Calibration, Hidden, calibrate
from anyclass.estimators.label_errors import suspicious_labels
from anyclass.estimators.mixture import Mixture, MixtureSettings
from anyclass.estimators.open_world_fit import count_all, discover_all, fitted_model, mixture_of
from anyclass.estimators.open_world_inputs import (
    Inputs,
    Unknown,
    all_classes,
    check_parameters,
    draw_rows,
    label_array,
)
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.estimators.rows import Rows
from anyclass.files import read_json, write_json, write_tensors
from anyclass.log import Log, silent


class OpenWorldClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier of image features by labels, class texts and unlabelled images.

    Example: `OpenWorldClassifier().fit(X, y, class_text=T).predict(X2)`.

    Attributes:
        classes_: (K,) classes; the unknown ones follow the known ones.
        transduction_: (N,) class of each training row; labelled rows keep their label.
        label_quality_: (N,) probability of each label by the other rows, NaN without a label.
        opinion_: (N,) class of each labelled row by the other rows, -1 without a label or if no
            other row has it.
        opinion_score_: (N,) probability of this class, NaN without a label.
        suspicious_: (N,) labels that the other rows contradict.
        contributions_: share of each expert (text, labels, images) in the spread of the logits.
        weights_: weights of the experts.
        num_classes_: the estimate of the number of classes, if `unknown` is "auto".
        calibration_: expected accuracy and temperature, where classes are unknown and there are
            labels enough (`discovery_calibration.py`); else None.
        model_: the fitted `OpenWorldModel`.
    """

    def __init__(
        self,
        unknown: Unknown = 0,
        *,
        rounds: int = 3,
        folds: int = 5,
        anchor: float = 4.0,
        sharpness: float = 3.0,
        shrinkage: float = 0.5,
        prior: float = 10.0,
        random_state: int = 0,
        calibrate: bool = True,
        max_unlabelled: int | None = None,
    ) -> None:
        """Set the hyper-parameters.

        Args:
            unknown: number of classes without name and label; "auto": estimate it.
            rounds: EM rounds over the unlabelled rows.
            folds: folds of the rows and labels.
            anchor: kappa, weight of a class text in the mean of its class, in rows.
            sharpness: q, sharpness of the E step.
            shrinkage: smallest shrinkage of the covariance of all rows.
            prior: rows per class at which half of the differences between predicted class
                frequencies are taken for an error of the texts, if zero-shot is unsure; 0: none.
            random_state: seed of the sample that discovery clusters, if there are many rows, and of
                the unlabelled rows that take part.
            calibrate: fit once more without the labels of some classes, to calibrate the
                probabilities of unknown classes; no prediction changes.
            max_unlabelled: maximum number of unlabelled rows to learn from, drawn at random; all
                labelled rows take part, and every row is predicted. None: all. Memory and time
                then hardly grow with the other rows, which may lie in a memory-mapped file.
        """
        self.unknown = unknown
        self.rounds = rounds
        self.folds = folds
        self.anchor = anchor
        self.sharpness = sharpness
        self.shrinkage = shrinkage
        self.prior = prior
        self.random_state = random_state
        self.calibrate = calibrate
        self.max_unlabelled = max_unlabelled

    @torch.no_grad()
    def fit(
        self,
        X: Any,
        y: Any = None,
        class_text: Any = None,
        logit_scale: float = 100.0,
        extra: Any = None,
        negative_text: Any = None,
        log: Log = silent,
    ) -> "OpenWorldClassifier":
        """Fit on rows of features, of which any number is labelled.

        Args:
            X: (N, D) image features, numpy or torch, any float type, may be memory-mapped.
            y: (N,) integers or strings, -1 for unlabelled rows; None: no label. With `class_text`,
                indices of its rows, or higher integers for further classes without a name.
            class_text: (C, D) text features; rows of NaN for classes without a name; None: none.
            logit_scale: s, inverse temperature of the text logits.
            extra: (N, H) further features of the same images.
            negative_text: (M, D) text features of nouns other than the classes, to recognise images
                of none of them; without effect if a class has no name, or if others are unknown
                and all known ones are labelled: labels then say more.
            log: gets the progress.

        Raises:
            ArrayError: the shapes do not fit, a value is not finite, or nothing is known of a
                class.
        """
        scale = float(logit_scale)
        check_parameters(self.unknown, self.folds, scale, self.max_unlabelled)
        everyone = Rows.checked(X, extra)
        labels = label_array(y, len(everyone))
        drawn = draw_rows(labels, len(everyone), self.max_unlabelled, self.random_state)
        rows = everyone if drawn is None else everyone.only(drawn)
        if drawn is not None and labels is not None:
            labels = labels[drawn]
        given = Inputs.checked(rows, labels, class_text, scale, negative_text, self.unknown)
        found = self._discover(given, log)
        settings = MixtureSettings(self.rounds, self.folds, self.sharpness, self.shrinkage)
        mixture = mixture_of(given, found, settings, self.anchor, self.prior)
        mixture.fit(log)
        self.model_ = fitted_model(given, mixture, found)
        self.n_features_in_ = given.rows.depth
        self.classes_ = all_classes(given.known, len(self.model_.weights))
        self.weights_ = mixture.weights
        self.contributions_ = mixture.contributions()
        self.calibration_: Calibration | None = None
        if found is not None and self.calibrate:
            self._calibrate(given, class_text, negative_text)
        labelled = np.flatnonzero(given.labels.numpy() >= 0)
        where = labelled if drawn is None else drawn[labelled]
        self._keep_opinions(mixture, where, len(everyone))
        self._keep_transduction(given.labels, where, everyone)
        return self

    def _discover(self, given: Inputs, log: Log) -> Discovered | None:
        """Classes of all rows; None where all classes are known."""
        known = len(given.known)
        if self.unknown == "auto":
            self.num_classes_ = count_all(given, self.random_state, log)
            total = max(known, self.num_classes_.classes)
        else:
            total = known + int(self.unknown)
        return None if total == known else discover_all(given, total, self.random_state)

    def _calibrate(self, given: Inputs, class_text: Any, negative_text: Any) -> None:
        """Set the temperature of the model by labelled classes that are treated as unknown."""
        known = len(given.known)
        total = len(self.model_.weights)

        def refit(hidden: Hidden) -> Float[np.ndarray, "n K"]:
            x, extra = given.rows.raw().x_and_extra(hidden.rows)
            text = None
            if class_text is not None:
                text = torch.full((known, given.rows.depth), torch.nan)
                text[: len(class_text)] = torch.as_tensor(class_text, dtype=torch.float32)
                text = text[torch.from_numpy(hidden.kept)]
            again = clone(self).set_params(
                unknown=total - len(hidden.kept), calibrate=False, max_unlabelled=None
            )
            again.fit(x, hidden.labels, text, given.logit_scale, extra, negative_text)
            return np.asarray(again.predict_proba(x, extra))

        self.calibration_ = calibrate(given.labels.numpy(), known, self.random_state, refit)
        if self.calibration_ is not None:
            temperature = torch.tensor(self.calibration_.temperature)
            self.model_ = replace(self.model_, temperature=temperature)

    def _keep_opinions(self, mixture: Mixture, where: Int[np.ndarray, " n"], count: int) -> None:
        """Store what the other rows say of each label.

        Args:
            mixture: the fitted experts.
            where: the labelled rows among all.
            count: N.
        """
        best, top, quality = mixture.opinions()
        suspicious = suspicious_labels(mixture.labels, best, top, quality)
        labelled = mixture.labels >= 0
        self.label_quality_ = np.full(count, np.nan, np.float32)
        self.label_quality_[where] = quality[labelled]
        self.opinion_score_ = np.full(count, np.nan, np.float32)
        self.opinion_score_[where] = top[labelled]
        self.suspicious_ = np.zeros(count, bool)
        self.suspicious_[where] = suspicious[labelled]
        numbers = np.issubdtype(self.classes_.dtype, np.integer)
        opinion = best[labelled].numpy()
        self.opinion_ = np.full(count, -1, int if numbers else object)
        self.opinion_[where] = np.where(opinion < 0, self.opinion_[where], self.classes_[opinion])

    def _keep_transduction(
        self, labels: Int[Tensor, " n"], where: Int[np.ndarray, " m"], everyone: Rows
    ) -> None:
        """Store the class of each row, its label if it has one.

        Args:
            labels: class of each row that took part, -1 without a label.
            where: the labelled rows among all.
            everyone: all rows.
        """
        predicted = self.predict(everyone.x, everyone.extra)
        found = predicted.cpu().numpy() if isinstance(predicted, Tensor) else predicted
        found[where] = self.classes_[labels[labels >= 0].numpy()]
        self.transduction_ = found

    @torch.no_grad()
    def decision_function(self, X: Any, extra: Any = None) -> Any:
        """Logits (n, K), also for two classes; their softmax is `predict_proba`."""
        return self._map(lambda rows: self.model_.logits(rows), X, extra)

    @torch.no_grad()
    def predict_proba(self, X: Any, extra: Any = None) -> Any:
        """Probability (n, K) of each class."""
        return self._map(lambda rows: self.model_.logits(rows).softmax(1), X, extra)

    @torch.no_grad()
    def predict(self, X: Any, extra: Any = None) -> Any:
        """Most probable class (n,) of each row; an array if classes are strings."""
        best = self._map(lambda rows: self.model_.logits(rows).argmax(1).int(), X, extra)
        if isinstance(best, Tensor) and np.issubdtype(self.classes_.dtype, np.integer):
            return torch.from_numpy(self.classes_)[best.cpu()].to(best.device)
        return self.classes_[best.cpu().numpy() if isinstance(best, Tensor) else best]

    @torch.no_grad()
    def outlier_score(self, X: Any, extra: Any = None) -> Any:
        """Score (n,) that a row is of none of the classes; higher: more likely."""
        return self._map(lambda rows: self.model_.outlier_score(rows), X, extra)

    @torch.no_grad()
    def familiarity(self, X: Any, extra: Any = None) -> Any:
        """Share (n,) of the training rows that are at least as much of an outlier."""
        return self._map(lambda rows: self.model_.familiarity(rows), X, extra)

    def _map(self, function: Callable[[Tensor], Tensor], X: Any, extra: Any) -> Any:
        """Apply a function to stacked rows in blocks; numpy in, numpy out."""
        check_is_fitted(self, "model_")
        rows = Rows.checked(X, extra)
        further = 0 if rows.extra is None else rows.extra.shape[1]
        fitted = self.n_features_in_
        for name, width, expected in [
            ("X", rows.depth, fitted),
            ("extra", further, self.model_.weights.shape[1] - fitted - 1),
        ]:
            if width != expected:
                raise ArrayError(
                    f"{name} has {width} features, but OpenWorldClassifier is expecting "
                    f"{expected} features as input"
                )
        result = torch.empty(0)
        start = 0
        for block in rows.stacked_blocks():
            part = function(block)
            if not start:  # small results between freed blocks would fragment the memory
                result = part.new_empty(len(rows), *part.shape[1:])
            result[start : start + len(part)] = part
            start += len(part)
        return result.to(X.device) if isinstance(X, Tensor) else result.numpy()

    def save(self, folder: Path | str) -> None:
        """Write `open_world.safetensors` and `open_world.json` into a folder, each atomically."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / "open_world.safetensors", vars(self.model_))
        settings = {"parameters": self.get_params(), "classes": self.classes_.tolist()}
        write_json(path / "open_world.json", settings | {"features": self.n_features_in_})

    def __sklearn_tags__(self) -> Any:
        """The tags of scikit-learn: y may be missing."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags

    @classmethod
    def load(cls, folder: Path | str) -> "OpenWorldClassifier":
        """Read a saved classifier, to predict with."""
        path = Path(folder)
        settings = read_json(path / "open_world.json")
        classifier = cls(**settings["parameters"])
        classifier.model_ = OpenWorldModel(**load_file(path / "open_world.safetensors"))
        classifier.classes_ = np.array(settings["classes"])
        classifier.n_features_in_ = settings["features"]
        return classifier
