"""`models`: a table to choose from, honest about what was timed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anyclass.backbone.recommended import RECOMMENDED
from anyclass.commands.models import _rate, _starter_speed, models, models_lines
from anyclass.errors import ModelError, RequestError


def test_models__rows_and_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    monkeypatch.setattr("anyclass.commands.models._reference_speed", lambda device: 40.0)
    monkeypatch.setattr("anyclass.commands.models._starter_speed", lambda device: 66.0)
    rows = {row["model"]: row for row in models()["recommended"]}
    assert [*rows] == [choice.model for choice in RECOMMENDED]
    assert rows["starter"]["images_per_second"] == 66
    assert rows["starter"]["here"] and rows["starter"]["measured"]
    assert rows["ViT-B-32/laion2b_s34b_b79k"]["images_per_second"] == 40
    large = rows["ViT-L-14/datacomp_xl_s13b_b90k"]
    assert large["images_per_second"] == 2.2  # 40 * 8.8 / 162
    assert not large["measured"]
    monkeypatch.setattr("anyclass.commands.models._reference_speed", None)  # it was kept
    assert models()["recommended"] == [*rows.values()]


def test_models__for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = models(speed=False)
    lines = models_lines(result)
    assert lines[0].split() == [
        "--model", "parameters", "download", "ImageNet", "images/s", "here", "licence",
    ]  # fmt: skip
    assert lines[1].startswith("starter ")
    assert "ViT-B-16-SigLIP2/webli" in lines[4]
    assert "1.5 GB" in lines[4] and "Apache-2.0" in lines[4] and "~" not in lines[4]


def test_models__lists_all() -> None:
    names = models(all_models=True)["models"]
    assert names[0] == "starter"
    assert len(names) > 100
    assert models(contains="siglip2")["models"][0].startswith("ViT-")
    assert "hf-hub:imageomics/bioclip-2" in models(contains="bioclip")["models"]
    with pytest.raises(RequestError, match="no model has 'zzz' in its name"):
        models(contains="zzz")


def test_rate__is_that_of_the_best_round(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 4.0, 10.0, 12.0, 20.0, 25.0, 30.0, 38.0])
    monkeypatch.setattr("anyclass.commands.models.time.perf_counter", lambda: next(times))
    seen = []

    def run(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(torch.is_grad_enabled())
        return pixels.mean(dim=(2, 3))

    assert _rate(run, torch.zeros(6, 3, 4, 5)) == 6 / 2
    assert seen == [False] * 4


def test_starter_speed__is_measured_with_its_engine(
    tiny_clip: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = Path(tiny_clip().removeprefix("local-dir:"))
    monkeypatch.setattr("anyclass.backbone.starter.starter_folder", lambda: starter)
    monkeypatch.setattr("anyclass.backbone.engine._fastest", lambda clip: "torch")
    shapes = []

    def rate(run: Any, pixels: torch.Tensor) -> float:
        shapes.append((tuple(pixels.shape), len(run(pixels[:2]))))
        return 12.5

    monkeypatch.setattr("anyclass.commands.models._rate", rate)
    assert _starter_speed("cpu") == 12.5
    ((shape, rows),) = shapes
    assert (shape[:2], rows) == ((64, 3), 2)


def test_starter_speed__is_not_known_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> Path:
        raise ModelError("pip install 'anyclass[starter]'")

    monkeypatch.setattr("anyclass.backbone.starter.starter_folder", missing)
    assert _starter_speed("cpu") is None
