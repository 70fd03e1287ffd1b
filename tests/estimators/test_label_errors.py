"""Suspicious labels by hand: N = 9 images of C = 3 classes."""

import torch

from anyclass.estimators.label_errors import suspicious_labels

NAN = float("nan")


def test_suspicious_labels__needs_as_much_confidence_as_the_class_has_on_average() -> None:
    #        class 0         class 1         class 2   none
    labels = [0, 0, 0, 0, 1, 1, 1, 2, -1]
    best = [0, 0, 1, 1, 1, 1, 2, 2, -1]
    top = [0.9, 0.7, 0.5, 0.7, 0.8, 0.9, 0.6, 0.7, NAN]
    given = [0.9, 0.7, 0.4, 0.2, 0.8, 0.9, 0.1, 0.7, NAN]
    # thresholds: 0: 0.55, 1: 0.6, 2: 0.7; so image 3 is said to be of class 1 with confidence,
    # images 2 and 6 are not said with enough
    found = suspicious_labels(
        torch.tensor(labels), torch.tensor(best), torch.tensor(top), torch.tensor(given)
    )
    assert found.tolist() == [False, False, False, True, *[False] * 5]


def test_suspicious_labels__a_class_without_labels_needs_certainty() -> None:
    labels = torch.tensor([0, 0, 1])
    best = torch.tensor([4, 4, 1])
    given = torch.tensor([0.1, 0.0, 0.9])
    found = suspicious_labels(labels, best, torch.tensor([0.9, 1.0, 0.9]), given)
    assert found.tolist() == [False, True, False]


def test_suspicious_labels__without_labels_or_opinions_nothing_is() -> None:
    nobody = torch.full((4,), -1)
    unknown = torch.full((4,), NAN)
    assert not suspicious_labels(nobody, nobody, unknown, unknown).any()
    assert not suspicious_labels(torch.tensor([0, 1, 1, 0]), nobody, unknown, unknown).any()
