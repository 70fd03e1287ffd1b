"""`plan` and `fit` refuse alike, in one sentence, before anything is computed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from anyclass.commands.fit import fit
from anyclass.commands.plan import plan
from anyclass.errors import RequestError
from anyclass.methods import METHODS
from tests.conftest import SHAPES

NOTHING: dict[str, Any] = {"labels": None, "classes": None}


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        ("auto", {"unknown": 1}, "every image has a label"),
        ("get", {"unknown": 2}, "every image has a label"),
        ("kmeans", {"unknown": 1}, "every image has a label"),
        ("simgcd", {"labels": None, "unknown": 1}, "simgcd needs some"),
        ("coop", {"labels": None}, "coop needs some"),
        ("clip-adapter", {"labels": None, "classes": ("a",)}, "clip-adapter needs some"),
        ("reclip", {"labels": None, "classes": ("a",)}, "two or more class names"),
        ("latteclip", {"labels": None, "classes": ("a",)}, "two or more class names"),
        ("auto", {"labels": None, "unknown": 15}, "15 classes cannot be found in 14 images"),
        ("kmeans", {}, "every image has a label, and .*--fit-on all"),
        ("kmeans", NOTHING | {"unknown": 1}, "one class in all, .* use --unknown 2 or more"),
        ("kmeans", {"labels": None, "unknown": 11}, "15 classes cannot be found in 14 images"),
        ("gcd", {"classes": (*SHAPES, "a")}, "every image has a label: .* unlabelled images as"),
        ("auto", {"holdout": 0.01}, "--holdout 0.01 of 14 labelled images holds out none"),
        ("zero-shot", {"holdout": 0.01}, "--holdout 0.01 of 14 labelled images holds out none"),
    ],
)
def test_plan__refuses_what_fit_refuses(
    shapes: dict[str, Any], tmp_path: Path, method: str, change: dict[str, Any], said: str
) -> None:
    asked = shapes | change
    with pytest.raises(RequestError, match=said) as refused:
        plan(method, **asked)
    with pytest.raises(RequestError) as also:
        fit(method, tmp_path / "run", **asked)
    assert str(also.value) == str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_plan__refuses_one_class_as_fit_does(
    shapes: dict[str, Any], tmp_path: Path, method: str
) -> None:
    """Every method says what it needs, or fits one class of one image; nobody fails later."""
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(shapes["images"] / "red square" / "0.jpg", folder)
    asked = shapes | {"images": folder, "labels": {"0.jpg": "a"}, "classes": ("a",)}
    said = []
    for what in (lambda: plan(method, **asked), lambda: fit(method, tmp_path / "run", **asked)):
        try:
            what()
        except RequestError as error:
            said.append(str(error))
    needs = METHODS[method]().workload(1, 1)
    if needs.least_names < 2 and needs.clusters is None:  # open-world, zero-shot
        assert said == []
    else:
        assert said == [said[0]] * 2
        assert "two or more" in said[0]


@pytest.mark.parametrize("method", ["auto", "kmeans"])
def test_plan__checks_the_number_of_classes_that_it_estimated(
    shapes: dict[str, Any], tmp_path: Path, method: str
) -> None:
    """Six equal images are one class: no cluster beside it."""
    folder = tmp_path / "equal"
    folder.mkdir()
    for i in range(6):
        shutil.copy(shapes["images"] / "red square" / "0.jpg", folder / f"{i}.jpg")
    asked = shapes | NOTHING | {"images": folder, "unknown": "auto"}
    if method == "auto":
        assert plan(method, **asked)["unknown"] == 1
        return
    with pytest.raises(RequestError, match="one class in all") as refused:
        plan(method, **asked)
    with pytest.raises(RequestError) as also:
        fit(method, tmp_path / "run", **asked)
    assert str(also.value) == str(refused.value)


def test_plan__of_a_class_to_discover_in_labels_held_out(shapes: dict[str, Any]) -> None:
    assert plan("auto", **shapes, unknown=1, holdout=0.3)["unknown"] == 1
