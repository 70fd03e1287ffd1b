"""Labels for some classes, names for the rest: what `fit`, `evaluate` and the report make of it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from anyclass.cli import main
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.methods.few_shot import FewShot
from anyclass.methods.ship import Ship
from anyclass.methods.ship_vae import Vae
from anyclass.methods.tip_adapter import TipAdapter
from anyclass.report.scored import scored_labels
from anyclass.report.summary import summarise

LABELLED = {"red square": 5, "blue disc": 3}


@pytest.fixture
def some(tmp_path: Path, images: Path, shapes: dict[str, Any]) -> dict[str, Any]:
    """The request for `images` with labels of the first two classes, in a table."""
    rows = [
        f"{name}/{path.name},{name}"
        for name in LABELLED
        for path in sorted((images / name).iterdir())
    ]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["file_name,label", *rows]) + "\n")
    return shapes | {"labels": str(table)}


@pytest.fixture
def ship() -> Ship:
    """A small SHIP with its controls."""
    tip = TipAdapter(data=FewShot(shots=2, views=2), epochs=2)
    return Ship(then=tip, generator=Vae(epochs=2, encoder_width=8, bias_width=8), controls=True)


def test_fit__auto_uses_labels_and_names(tmp_path: Path, some: dict[str, Any]) -> None:
    metrics = fit("auto", tmp_path / "run", **some).metrics
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["method"] == "open-world"
    assert config["why"] == ["2 classes with labels (8 images), 2 classes with only a name"]
    assert (metrics["scored"], metrics["scored_on"]) == (8, "cross-fitted labels")
    assert not any("trained on" in warning for warning in metrics["warnings"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Labelled and named classes" in page
    summary = summarise(tmp_path / "run", thumbnails=False)
    scored = scored_labels(pq.read_table(tmp_path / "run" / "predictions.parquet"), metrics)
    assert scored.right.mean() == metrics["adapted"]["accuracy"] == summary["headline"]["accuracy"]
    assert scored.right_before.mean() == metrics["zero_shot"]["accuracy"]
    assert summary["map"]["points"] == 14


def test_fit__scores_only_what_was_not_learned_from(tmp_path: Path, some: dict[str, Any]) -> None:
    from anyclass.methods.open_world import OpenWorld

    metrics = fit(OpenWorld(shots=2), tmp_path / "run", **some).metrics
    assert metrics["scored"] == 3 + 1
    assert not any("trained on" in text for text in metrics["warnings"])


def test_fit__a_linear_probe_is_scored_on_labels_that_it_has_not_seen(
    tmp_path: Path, some: dict[str, Any]
) -> None:
    held_out = fit("open-world", tmp_path / "held_out", holdout=0.4, **some).metrics
    assert held_out["scored_on"] == "labels that were not trained on"
    assert held_out["controls"]["linear_probe"]["n"] == held_out["scored"] > 0
    everything = fit("open-world", tmp_path / "all", **some).metrics
    assert everything["scored_on"] == "cross-fitted labels"
    assert everything["controls"] == {}
    assert (tmp_path / "all/controls/linear_probe/classifier.json").is_file()


def test_fit__ship_leaves_its_controls_and_evaluate_scores_them(
    tmp_path: Path,
    some: dict[str, Any],
    images: Path,
    ship: Ship,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    metrics = fit(ship, run, **some).metrics
    assert set(metrics["controls"]) == {"text", "none", "linear_probe"}
    assert (run / "model" / "generator.safetensors").is_file()
    manifest = json.loads((run / "manifest.json").read_text())["files"]
    assert {"controls", "model"} <= {name.split("/")[0] for name in manifest}
    assert main(["evaluate", "--run", str(run), "--images", str(images)]) == 0
    said = capsys.readouterr().out
    assert "among the classes of the same kind" in said
    assert "all images, linear probe" in said
    found = evaluate(run, images)
    for space in ("sliced", "mixed", "generalized"):
        assert set(found[space]) == {"base", "new", "harmonic_mean", "zero_shot"}
        assert found[space]["zero_shot"]["base"] is not None
        assert found["controls"]["text"][space]["new"] is not None
    assert found["mixed"]["base"] <= found["sliced"]["base"]
    assert found["controls"]["linear_probe"]["mixed"]["new"] == 0  # it knows no named class
    page = (run / "report.html").read_text()
    assert "Linear probe" in page
    assert "Control: class names only" in page
    fit(ship, run, overwrite=True, **some)  # what was written can be written over
    assert not (run / "unfinished").exists()


def test_cli__chooses_what_ship_is_followed_by(
    tmp_path: Path, some: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--images", str(some["images"]), "--labels", some["labels"]]
    flags += ["--classes", *some["classes"], "--model", some["model"], "--engine", "torch"]
    small = ["--epochs", "1", "--encoder-width", "8", "--bias-width", "8", "--then.views", "1"]
    out = ["--out", str(tmp_path / "run")]
    assert main(["fit", "ship", *flags, *small, "--then", "gda", *out]) == 0
    fields = json.loads((tmp_path / "run" / "config.json").read_text())["fields"]
    assert (fields["then"]["kind"], fields["then"]["data"]["views"]) == ("gda", 1)
    capsys.readouterr()
    assert main(["fit", "ship", *flags, "--then", "nothing", *out]) == 2
    assert "no then is called 'nothing': use coop" in capsys.readouterr().err
    assert main(["fit", "gda", *flags, "--then", "coop", *out]) == 2
    assert "gda has no then" in capsys.readouterr().err
