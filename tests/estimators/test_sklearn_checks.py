"""scikit-learn's own checks of estimators, and why some of them do not apply."""

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import estimator_checks_generator

from anyclass.estimators.open_world import OpenWorldClassifier

TWO_COLUMNS = "decision_function has a column for each class, also for two classes"
NOT_MET = {
    "check_estimators_dtypes": "a row of X becomes zero as an integer, and has no direction",
    "check_dtype_object": "arrays of Python objects are refused",
    "check_classifiers_classes": "-1 is no class, but marks rows without a label",
    "check_do_not_raise_errors_in_init_or_set_params": "tests check the types of parameters",
    "check_supervised_y_2d": "y has one axis; a column is refused",
}
"""Checks that do not apply, with the reason."""
OF_DECISIONS = {
    "check_classifiers_train": TWO_COLUMNS,
    "check_decision_proba_consistency": TWO_COLUMNS,
}
"""Checks that hold apart from the shape of `decision_function`."""


class OneColumn(OpenWorldClassifier):
    """The same with scikit-learn's `decision_function` for two classes."""

    def decision_function(self, X: Any, extra: Any = None) -> Any:
        logits = super().decision_function(X, extra)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits


def checks(estimator: BaseEstimator, excluded: dict[str, str]) -> list[Any]:
    """Parameters of each check; an excluded one must fail, and a check that skips is left out."""
    found = []
    for _, check in estimator_checks_generator(estimator):
        name = check.func.__name__
        reason = excluded.get(name)
        marks = [pytest.mark.xfail(reason=reason)] if reason else []
        if name not in ("check_array_api_input", "check_classifier_data_not_an_array"):
            found.append(pytest.param(check, marks=marks, id=name))
    return found


@pytest.mark.parametrize(
    "check", checks(OpenWorldClassifier(rounds=1, folds=2), NOT_MET | OF_DECISIONS)
)
def test_open_world_classifier__passes(check: Callable[..., None]) -> None:
    check(OpenWorldClassifier(rounds=1, folds=2))


@pytest.mark.parametrize(
    "check",
    [
        parameter
        for parameter in checks(OneColumn(rounds=1, folds=2), {})
        if parameter.id in OF_DECISIONS
    ],
)
def test_open_world_classifier__passes_but_for_the_shape_of_decisions(
    check: Callable[..., None],
) -> None:
    check(OneColumn(rounds=1, folds=2))
