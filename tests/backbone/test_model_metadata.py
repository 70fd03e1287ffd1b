"""Metadata of models: a run whose features are cached does without the weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyclass.backbone import Backbone, backbone
from anyclass.backbone.engine import ENGINES, Engine, engine
from anyclass.backbone.model_metadata import ModelMetadata
from anyclass.backbone.synthetic import synthetic_views
from anyclass.errors import ModelError, RequestError
from anyclass.files import cache_folder

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def folder(tiny_clip: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a tiny model, of which nothing is known."""
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "model"
    shutil.copytree(tiny_clip("causal").removeprefix("local-dir:"), copy)
    return copy


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were loaded, in order."""
    found: list[str] = []
    load_model = backbone.load_model

    def counted(model_id: str, allow_pickle: bool = False) -> Any:
        found.append(model_id)
        return load_model(model_id, allow_pickle)

    monkeypatch.setattr(backbone, "load_model", counted)
    return found


def load(folder: Path, **options: Any) -> Backbone:
    return Backbone.load(f"local-dir:{folder}", **options)


def metadata(clip: Backbone) -> dict[str, Any]:
    """All that a run with cached features asks of a model."""
    return {
        "weights": clip.weights_sha256,
        "frozen": [clip.frozen_sha256("head"), clip.frozen_sha256("tail")],
        "preprocessing": clip.preprocessing,
        "scale": clip.logit_scale.item(),
        "fingerprint": clip.fingerprint().tolist(),
        "batch_normed": clip.batch_normed,
        "context": clip.context_length,
        "engine": engine(clip, "head").name,
        "device": clip.device,
    }


def test_load__a_known_model_is_loaded_at_its_first_use(folder: Path, loads: list[str]) -> None:
    first = load(folder)
    assert loads == [f"local-dir:{folder}"]
    wanted = metadata(first)
    second = load(folder)
    assert metadata(second) == wanted
    assert len(loads) == 1
    pixels = second.synthetic()
    assert torch.equal(second.images(pixels), first.images(pixels))
    assert len(loads) == 2


@torch.no_grad()
def test_metadata__are_those_of_the_model(folder: Path) -> None:
    load(folder)
    metadata(load(folder))
    known, loaded = load(folder), load(folder)
    named = loaded.model.state_dict()
    assert known.logit_scale.item() == pytest.approx(named["logit_scale"].exp().item(), rel=1e-6)
    assert torch.equal(known.fingerprint(), loaded.images(loaded.synthetic()))
    assert known.context_length == loaded.model.context_length
    assert metadata(loaded) == metadata(known)


def test_metadata__of_changed_weights_are_others(folder: Path, loads: list[str]) -> None:
    before = metadata(load(folder))
    state = load_file(folder / WEIGHTS)
    state["visual.proj"] *= 2
    state["visual.proj"][0] += 1
    save_file(state, folder / WEIGHTS)
    after = metadata(load(folder))
    assert len(loads) == 2
    assert after["weights"] != before["weights"]
    assert after["fingerprint"] != before["fingerprint"]
    assert after["frozen"][0] == before["frozen"][0]


def test_metadata__of_a_pickled_model_hold_with_permission_alone(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "open_clip_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    load(folder, allow_pickle=True)
    load(folder, allow_pickle=True)
    with pytest.raises(ModelError, match="--allow-pickle if you trust"):
        load(folder)


def test_metadata__a_folder_with_code_is_refused_though_known(folder: Path, tmp_path: Path) -> None:
    load(folder)
    link = folder / "extra.json"
    (tmp_path / "elsewhere.json").write_text("{}")
    link.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ModelError, match="copy that file into the folder"):
        load(folder)


def test_metadata__are_dropped_once_the_model_may_change(folder: Path) -> None:
    load(folder)
    clip = load(folder)
    before = metadata(clip)
    with torch.no_grad():
        for parameter in clip.parameters("head").values():
            parameter.add_(0.5)
    changed = metadata(clip)
    assert changed["fingerprint"] != before["fingerprint"]
    assert changed["scale"] != before["scale"]
    assert metadata(load(folder)) == before


def test_metadata__a_copy_is_trained_by_itself(folder: Path) -> None:
    metadata(load(folder))
    clip = load(folder)
    copy = clip.copy()
    with torch.no_grad():
        copy.model.logit_scale.add_(1.0)
    assert copy.logit_scale.requires_grad
    assert copy.logit_scale.item() == pytest.approx(clip.logit_scale.item() * 2.718282, rel=1e-5)


def test_open__files_that_changed_since_are_refused(folder: Path) -> None:
    metadata(load(folder))
    clip = load(folder)
    state = load_file(folder / WEIGHTS)
    state["visual.proj"] += 1
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ModelError, match="was changed while it was in use: start again"):
        clip.images(clip.synthetic())


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"preprocessing": NaN}'])
def test_metadata__a_damaged_file_is_computed_again(
    folder: Path, loads: list[str], content: str
) -> None:
    wanted = metadata(load(folder))
    (path,) = cache_folder("facts").iterdir()
    path.write_text(content)
    assert metadata(load(folder)) == wanted
    assert len(loads) == 2
    assert json.loads(path.read_text())["weights_sha256"] == wanted["weights"]


def test_metadata__of_two_processes_stay(tmp_path: Path) -> None:
    one, two = ModelMetadata(tmp_path / "a.json"), ModelMetadata(tmp_path / "a.json")
    assert one.get("first", lambda: 1) == 1
    assert two.get("second", lambda: 2) == 2
    both = ModelMetadata(tmp_path / "a.json")
    assert (both.known("first"), both.known("second"), both.known("third")) == (1, 2, None)


def test_metadata__without_a_file_are_not_kept() -> None:
    metadata = ModelMetadata()
    assert [metadata.get("n", lambda value=value: value) for value in (1, 2)] == [1, 2]
    assert metadata.known("n") is None


def test_engine__that_agreed_is_tried_again_when_it_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load(folder, engine="bf16")
    clip.metadata.get("engine bf16 bf16 head", lambda: "bf16")

    def wrong(clip: Backbone, part: Any) -> Engine:
        normalise = clip.preprocessing.normalise
        return Engine("bf16", lambda pixels: -clip.trunk(normalise(pixels), part).flip(1))

    monkeypatch.setitem(ENGINES, "bf16", wrong)
    known = engine(load(folder, engine="bf16"), "head")
    assert known.name == "bf16"
    with pytest.raises(RequestError, match="the bf16 engine does not agree with PyTorch"):
        known.run(synthetic_views(clip.preprocessing))
