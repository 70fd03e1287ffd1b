"""The model card of a run: licence, versions, confusions, discovered classes."""

import json
from pathlib import Path
from typing import Any

import pytest

from anyclass.backbone.recommended import RECOMMENDED
from anyclass.report.model_card import card
from tests.report.test_report import make_run, with_naming

PACKAGES = {"anyclass": "0.9", "numpy": "2.4", "torch": "2.15.0", "open_clip_torch": "3.3.0"}


def of_model(run: Path, name: str) -> Path:
    """The run of a model of this name."""
    weights = {"id": name, "weights_sha256": "0123456789abcdef" * 4}
    environment = json.loads((run / "environment.json").read_text())
    written = environment | {"model": weights, "packages": PACKAGES}
    (run / "environment.json").write_text(json.dumps(written))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return of_model(with_naming(make_run(tmp_path)), "ViT-B-16-SigLIP2/webli")


def test_card__licence_and_versions(run: Path) -> None:
    said = card(run)
    assert "ViT-B-16-SigLIP2/webli (sha256 0123456789abcdef), licence: Apache-2.0" in said
    assert "* seed 5, anyclass 0.9, torch 2.15.0, open_clip_torch 3.3.0" in said
    licences = {choice.model: choice.licence for choice in RECOMMENDED}
    assert f"licence: {licences['hf-hub:imageomics/bioclip']}" in card(
        of_model(run, "hf-hub:imageomics/bioclip")
    )
    assert "MIT (text encoder MiniLM-L6)" in card(of_model(run, "starter"))
    assert "licence: see the model's own page" in card(of_model(run, "local-dir:/somewhere"))


def test_card__what_is_confused(run: Path, tmp_path: Path) -> None:
    said = card(run).split("## Confusion matrix\n\n")[1].splitlines()
    assert said[0] == "| true class ↓ predicted → | wren | apple | boat | unknown 1 |"
    assert said[2:5] == ["| wren | 2 | 0 | 0 | 0 |", "| apple | 1 | 0 | 0 | 0 |"] + [
        "| boat | 0 | 3 | 0 | 1 |"
    ]
    many: list[Any] = [[1] * 30 for _ in range(30)]
    many[0][1] = 7
    other = make_run(tmp_path / "many", confusion=many)
    assert "| wren | apple | 7 |" in card(of_model(other, "starter")).split("mistakes\n\n")[1]
    unscored = make_run(tmp_path / "unscored", confusion=None, adapted=None, zero_shot=None)
    assert "Confusion" not in card(of_model(unscored, "starter"))


def test_card__discovered_classes(run: Path, tmp_path: Path) -> None:
    assert "| unknown 1 | 3 | pear | maybe | apple |" in card(run)
    assert "Discovered" not in card(of_model(make_run(tmp_path / "none"), "starter"))


def test_card__no_name_acts(tmp_path: Path) -> None:
    """A name in the head of a table is escaped once, as in its rows."""
    run = make_run(tmp_path, lambda old: f"{old} <b>|*", on_disk=False)
    said = card(of_model(run, "starter")).split("## Confusion matrix\n\n")[1]
    assert said.splitlines()[0].count("wren \\<b\\>\\|\\*") == 1
    assert said.splitlines()[2].startswith("| wren \\<b\\>\\|\\* |")
