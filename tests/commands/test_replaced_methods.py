"""Runs of methods that are no more: written by hand as version 0.1 did, they still work.

C = 4 classes, D = 24, H = 32 before the projection.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.commands.command_line import REPLACED
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.commands.predict import load_classifier, predict
from anyclass.commands.rename import rename
from anyclass.commands.report import report
from anyclass.files import check_manifest, read_json, sha256, write_json
from anyclass.methods import METHODS
from tests.classifier.test_saving import Seen, drawn

GAUSSIANS = {"weight": 1.0, "rounds": 2, "folds": 5, "shrink": 0.5, "trust": 0.5, "prior": 1.0}
FIELDS: dict[str, dict[str, Any]] = {
    "latteclip-plus": {
        "template": "a photo of a {}.",
        "correction": "none",
        "gamma": 0.8,
        "gaussians": GAUSSIANS,
        "descriptions": 0.0,
        "describer": {"kind": "vocabulary", "most": 5},
        "domain": "object",
    },
    "ship-plus": {"template": "a {}.", "shots": None, "unlabelled": True, "gaussians": GAUSSIANS},
    "get-plus": {"sharpening": {"share": 0.5}, "dimensions": None, "restarts": 30, "prior": 5.0},
}
"""Some fields of 0.1."""


def spaces() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of get-plus: whitened features of both spaces, then linear."""
    shapes = {"x_centre": (24,), "x_whiten": (24, 24), "x_middle": (24,), "x_axes": (24, 6)}
    shapes |= {"h_centre": (32,), "h_whiten": (32, 32), "h_middle": (32,), "h_axes": (32, 9)}
    own = {f"head.{name}": drawn(*shape, seed=10) for name, shape in shapes.items()}
    return own | {"weights": drawn(4, 16, seed=11)}, {"kind": "spaces", "share": 0.4}


def rewritten(run: Path, method: str) -> None:
    """Make a run one of a method of 0.1, with a head of random numbers."""
    tensors = {"weights": 0.1 * drawn(4, 24 + 32 + 1, seed=3)}
    head: dict[str, Any] | None = None
    if method == "get-plus":
        tensors, head = spaces()
    path = run / "model" / "classifier.safetensors"
    save_file(tensors | {"fingerprint": load_file(path)["fingerprint"]}, path)
    settings = read_json(run / "model" / "classifier.json")
    own = {"own": True, "pooled": False, "scale": None, "head": head}
    settings |= {"method": method.replace("-", "_"), "fields": FIELDS[method]} | own
    write_json(run / "model" / "classifier.json", settings)
    old = {"asked": "auto", "method": method, "why": ["0.1 chose it"], "fields": FIELDS[method]}
    write_json(run / "config.json", read_json(run / "config.json") | old)
    manifest = read_json(run / "manifest.json")
    for name in ("config.json", "model/classifier.json", "model/classifier.safetensors"):
        manifest["files"][name] = sha256(run / name)
    write_json(run / "manifest.json", manifest)


@pytest.fixture(params=sorted(FIELDS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(method: str, shapes: dict[str, Any], tmp_path: Path) -> Path:
    """A finished run of a method of 0.1."""
    if method == "get-plus":
        labels = tmp_path / "labels.csv"
        labels.write_text("file_name,label\nred square/0.jpg,red\nblue disc/0.jpg,blue\n")
        request = shapes | {"classes": None, "labels": str(labels), "unknown": 2}
        fit(METHODS["kmeans"](semi_supervised=True), tmp_path / "run", **request)
    else:
        fit("zero-shot", tmp_path / "run", **shapes)
    rewritten(tmp_path / "run", method)
    return tmp_path / "run"


def test_replaced__are_those_of_this_file() -> None:
    assert set(FIELDS) == set(REPLACED)
    assert set(REPLACED.values()) <= set(METHODS)
    assert not set(REPLACED) & set(METHODS)


@torch.no_grad()
def test_run__still_predicts_and_scores(
    run: Path, method: str, images: Path, shapes: dict[str, Any], tmp_path: Path
) -> None:
    said = predict(run, images, tmp_path / "p.csv", engine="torch")
    assert said["n"] == 14
    classifier = load_classifier(run, engine="torch")
    assert classifier.method == method
    names = np.array(classifier.classes_)
    if method != "get-plus":  # its head has a test of its own
        features = Seen(Backbone.load(shapes["model"], engine="torch"), images)
        weights = load_file(run / "model" / "classifier.safetensors")["weights"]
        wanted = names[(features.rows @ weights.T).argmax(1).numpy()]
    else:
        wanted = names[classifier.predict_proba(images).argmax(1)]
    with (tmp_path / "p.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels == wanted.tolist()
    found = evaluate(run, images, engine="torch", prompt_ensemble=False)
    if method == "get-plus":
        assert 0 < found["all"] <= 1
    else:
        files = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
        right = [file.split("/")[0] == name for file, name in zip(files, labels, strict=True)]
        assert found["accuracy"] == pytest.approx(np.mean(right))


def test_run__has_its_report_and_names(run: Path, method: str) -> None:
    (run / "report.html").unlink()
    report(run)
    page = (run / "report.html").read_text()
    assert f"Why <bdi>{method}</bdi>" in page
    assert "0.1 chose it" in page
    if method == "get-plus":
        rename(run, accept=True)
        assert json.loads((run / "model" / "classifier.json").read_text())["method"] == "get_plus"
        assert method in (run / "report.html").read_text()
    assert check_manifest(run) == []
