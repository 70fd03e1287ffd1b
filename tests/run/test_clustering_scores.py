"""Scores of discovered classes, compared with zero-shot and k-means."""

from pathlib import Path

import numpy as np
import pytest

from anyclass.data import Classes, ImageDataset
from anyclass.run.clustering_scores import align_labels, clustering_scores, discovery_summary
from anyclass.run.predictions import AllPredictions, log_of

NEW = ("discovered 1", "discovered 2")


def test_clustering_scores__values() -> None:
    """Two labelled classes, two discovered; a and b are old, x and y are names from outside."""
    classes = Classes.of("ab", labelled="ab", unknown=2).discovered([0, 1])
    given = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3, -1])
    dataset = align_labels(
        ImageDataset(Path("/"), tuple("0123456789"), given, Classes.of(("a", "b", "x", "y"))),
        classes,
    )
    assert dataset.classes.names == ("a", "b", *NEW, "x", "y")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 4, 4, 4, 5, 5, -1]
    guess = [0, 0, 1, 0, 3, 3, 3, 2, 1, 0]
    none = log_of(np.eye(4)[[0, 0, 1, 1, 0, 0, 0, 0, 0, 0]])
    worse = np.eye(4)[[0] * 10]
    found = clustering_scores(
        dataset, AllPredictions(none, none, log_of(np.eye(4)[guess])), classes, {"kmeans": worse}
    )
    assert (found["all"], found["old"], found["new"]) == (7 / 9, 3 / 4, 4 / 5)
    assert (found["old_fixed"], found["n"], found["n_old"]) == (3 / 4, 9, 4)
    assert found["assignment"] == {"a": "a", "b": "b", NEW[0]: "y", NEW[1]: "x"}
    assert found["zero_shot_accuracy"] == 1.0
    assert [
        (row["name"], row["n"], row["accuracy"], row["kind"]) for row in found["per_class"]
    ] == [
        ("a", 2, 1.0, "old"),
        ("b", 2, 0.5, "old"),
        ("x", 3, 1.0, "new"),
        ("y", 2, 0.5, "new"),
    ]
    assert found["mean_per_class"] == 0.75
    assert found["controls"]["kmeans"]["all"] == 3 / 9
    assert (found["protocol"], found["metric"]) == ("inductive", "clustering accuracy v2")
    assert found["warnings"] == [
        "zero-shot on the classes with a name alone has a higher accuracy on images of the classes "
        "with a name: 100.0% against 75.0%"
    ]


def test_clustering_scores__a_class_with_only_a_name_is_old() -> None:
    """It kept its name, so it has to be right by name."""
    classes = Classes.of("ab", labelled="a", unknown=2).with_discovered()
    given = np.array([0, 0, 1, 1, 2, 2])
    dataset = align_labels(
        ImageDataset(Path("/"), tuple("012345"), given, Classes.of("abx")), classes
    )
    rows = log_of(np.eye(4)[[0, 0, 1, 2, 3, 3]])
    found = clustering_scores(dataset, AllPredictions(rows, rows, rows), classes, {})
    assert (found["n_old"], found["old"], found["old_fixed"], found["new"]) == (4, 3 / 4, 3 / 4, 1)
    assert [row["kind"] for row in found["per_class"]] == ["old", "old", "new"]


def test_clustering_scores__an_unused_class_has_no_name() -> None:
    classes = Classes.of("a", labelled="a", unknown=2).discovered([0])
    dataset = align_labels(
        ImageDataset(Path("/"), tuple("01"), np.array([0, 1]), Classes.of("ax")), classes
    )
    probabilities = log_of(np.eye(3)[[0, 1]])
    found = clustering_scores(
        dataset, AllPredictions(probabilities, probabilities, probabilities), classes, {}
    )
    assert found["assignment"] == {"a": "a", NEW[0]: "x", NEW[1]: None}


@pytest.mark.parametrize(
    ("facts", "advice"),
    [
        ({}, "a smaller number of classes may do"),
        ({"steps": 1000}, "a smaller number of classes may do"),
        (
            {"steps": 40},
            "40 training steps may be too few; train for more epochs",
        ),
    ],
    ids=str,
)
def test_discovery_summary__of_empty_classes(facts: dict[str, float], advice: str) -> None:
    classes = Classes.of("a", labelled="a", unknown=2).discovered([0])
    metrics = {"adapted": None, "zero_shot": None, "controls": {}, "warnings": [], "facts": facts}
    found = discovery_summary(np.array([0, 0, 2]), classes, metrics, held_out=True)
    (warning,) = found["warnings"]
    assert warning.startswith(f"no image was assigned to discovered 1: {advice}")
