"""`fit auto` with labels, names and unknown classes in every combination, from fit to evaluate.

Four classes of shapes, seven images each; labels are those of three images of a class.
"""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from anyclass import Classifier
from anyclass.cli import main
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.commands.plan import plan

NAMES = ("red square", "blue disc", "yellow kite", "green ring")
IMAGES, SHOTS = 7, 3
Screen = pytest.CaptureFixture[str]


class Known(NamedTuple):
    """What is known of the classes."""

    labels: int
    """Number of labelled classes."""
    names: int
    """Number of names in --classes."""
    unknown: int
    """--unknown."""

    @property
    def kinds(self) -> list[str]:
        """Kind of each class of the result."""
        named = max(0, self.names - self.labels)
        return ["labelled"] * self.labels + ["named"] * named + ["unknown"] * self.unknown


COMBINATIONS = [Known(*counts) for counts in itertools.product((0, 2, 4), (0, 3, 4), (0, 2))]
POSSIBLE = [known for known in COMBINATIONS if known.kinds and known[:2] != (4, 3)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Callable[..., str]) -> Path:
    """A folder with `images`, `names3.txt`, `labels2.csv` and so on."""
    from tests.conftest import SHAPES, draw_shape

    folder = tmp_path_factory.mktemp("auto")
    for name in NAMES:
        (folder / "images" / name).mkdir(parents=True)
        for i in range(IMAGES):
            draw_shape(SHAPES[name], i).save(folder / "images" / name / f"{i}.png")
    for n in (1, 2, 3, 4):
        (folder / f"names{n}.txt").write_text("\n".join(NAMES[:n]))
        rows = [f"{name}/{i}.png,{name}" for name in NAMES[:n] for i in range(SHOTS)]
        (folder / f"labels{n}.csv").write_text("\n".join(["file_name,label", *rows]) + "\n")
    (folder / "model.txt").write_text(tiny_clip())
    return folder


def options(place: Path, known: Known) -> dict[str, Any]:
    """The request as keyword arguments."""
    request = {"images": place / "images", "model": (place / "model.txt").read_text()}
    request |= {"engine": "torch", "device": "cpu", "unknown": known.unknown}
    if known.names:
        request["classes"] = place / f"names{known.names}.txt"
    if known.labels:
        request["labels"] = str(place / f"labels{known.labels}.csv")
    return request | {"prompt_ensemble": False}


def flags(place: Path, known: Known) -> list[str]:
    """The request on the command line."""
    request = options(place, known)
    del request["prompt_ensemble"]
    pairs = [(f"--{name}", str(value)) for name, value in request.items()]
    return [*itertools.chain(*pairs), "--no-prompt-ensemble"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("known", POSSIBLE, ids=lambda known: "-".join(map(str, known)))
def test_auto__on_the_command_line(
    place: Path, tmp_path: Path, capsys: Screen, known: Known
) -> None:
    run = tmp_path / "run"
    assert main(["plan", *flags(place, known), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert main(["fit", "auto", *flags(place, known), "--out", str(run), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    config = json.loads((run / "config.json").read_text())
    assert planned["method"] == config["method"] == "open-world"
    assert planned["why"] == config["why"]
    classes = json.loads((run / "classes.json").read_text())
    assert sorted(classes["kinds"]) == sorted(known.kinds)
    assert set(classes["names"]) >= set(NAMES[: max(known.labels, known.names)])
    assert ("discovery" in metrics) == (known.unknown > 0)
    predicted = predict(place, tmp_path)
    right = np.array([row["label"] == row["file_name"].split("/")[0] for row in predicted])
    named = np.array([row["file_name"].split("/")[0] in NAMES[: known.labels] for row in predicted])
    assert {row["label"] for row in predicted} <= set(classes["names"])
    if known.labels:
        assert right[named].mean() > 0.75, "images of labelled classes, most of them unlabelled"
    if known == Known(2, 0, 2):
        others = [row["kind"] for row, old in zip(predicted, named, strict=True) if not old]
        assert others.count("unknown") > len(others) / 2
    scores(place, run, known, right)


def predict(place: Path, tmp_path: Path) -> list[dict[str, str]]:
    """Rows of `anyclass predict`; those of the run's own table say the same."""
    run, out = tmp_path / "run", tmp_path / "predictions.csv"
    where = ["--images", str(place / "images"), "--engine", "torch", "--out", str(out)]
    assert main(["predict", "--run", str(run), *where]) == 0
    rows = table(out)
    assert len(rows) == len(NAMES) * IMAGES
    own = table(run / "predictions.csv")
    assert [row["label"] for row in rows] == [row["label"] for row in own]
    return rows


def scores(place: Path, run: Path, known: Known, right: np.ndarray) -> None:
    """What `evaluate` says of all images."""
    if known.unknown:
        found = evaluate(run, place / "images", engine="torch", prompt_ensemble=False)
        unseen = [row["status"] != "given" for row in table(run / "predictions.csv")]
        assert found["n"] == sum(unseen)
        assert found["all"] > 1 / len(NAMES)
        if known.labels and known.labels >= known.names:  # random weights know nothing of names
            assert found["old_fixed"] > 0.5, "a quarter is chance; given labels are left out"
    elif len(known.kinds) == len(NAMES):
        found = evaluate(run, place / "images", engine="torch", prompt_ensemble=False)
        unseen = [row["status"] != "given" for row in table(run / "predictions.csv")]
        assert found["accuracy"] == pytest.approx(right[unseen].mean())
        assert found["accuracy"] >= 0.75 or known.labels < 4


@pytest.mark.parametrize("known", [Known(2, 3, 2), Known(4, 0, 0), Known(0, 3, 2)], ids=str)
def test_auto__from_python_is_the_same(place: Path, tmp_path: Path, known: Known) -> None:
    request = options(place, known)
    fit("auto", tmp_path / "python", **request)
    assert main(["fit", "auto", *flags(place, known), "--out", str(tmp_path / "run")]) == 0
    files = ("predictions.csv", "classes.json", "model/classifier.safetensors")
    for name in files:
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    classifier = Classifier.load(tmp_path / "run" / "model", engine="torch")
    probabilities = classifier.predict_proba(place / "images")
    best = [classifier.classes_[c] for c in probabilities.argmax(1)]
    assert best == [row["label"] for row in table(tmp_path / "run" / "predictions.csv")]
    assert plan("auto", **request)["method"] == "open-world"


def test_auto__one_name_takes_every_image(place: Path, tmp_path: Path, capsys: Screen) -> None:
    known = Known(0, 1, 0)
    assert main(["fit", "auto", *flags(place, known), "--out", str(tmp_path / "run")]) == 0
    assert "there is no other class, so every image gets it" in capsys.readouterr().err
    assert {row["label"] for row in predict(place, tmp_path)} == {NAMES[0]}


def test_auto__a_name_and_unknown_classes(place: Path, tmp_path: Path) -> None:
    known = Known(0, 1, 3)
    assert main(["fit", "auto", *flags(place, known), "--out", str(tmp_path / "run")]) == 0
    found = {row["label"] for row in predict(place, tmp_path)}
    assert found & {"discovered 1", "discovered 2", "discovered 3"}


def test_auto__a_label_that_is_not_in_the_list_is_an_error(
    place: Path, tmp_path: Path, capsys: Screen
) -> None:
    known = Known(4, 3, 0)
    assert main(["fit", "auto", *flags(place, known), "--out", str(tmp_path / "run")]) == 2
    assert "not in the list of classes: 'green ring'" in capsys.readouterr().err


@pytest.mark.parametrize("known", [Known(2, 3, 0), Known(0, 3, 0), Known(0, 0, 0)], ids=str)
def test_auto__the_number_can_be_estimated(place: Path, tmp_path: Path, known: Known) -> None:
    request = options(place, known) | {"unknown": "auto"}
    metrics = fit("auto", tmp_path / "run", **request).metrics
    kinds = json.loads((tmp_path / "run" / "classes.json").read_text())["kinds"]
    assert kinds[: len(known.kinds)] == known.kinds
    assert kinds.count("unknown") == metrics["classes_estimated"]["unknown"]
