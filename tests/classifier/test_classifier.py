"""The saved classifier: what comes back is what was saved, and nothing else is ever opened."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from anyclass import Backbone, Classes, Classifier, ImageDataset
from anyclass.backbone import Part
from anyclass.classifier import loading
from anyclass.classifier.heads import CosineHead
from anyclass.classifier.representation import Representation
from anyclass.data import open_image
from anyclass.errors import ImageError, ModelError, RequestError
from anyclass.estimators.linear import Linear

NAMES = ("red square", "blue disc", "yellow kite", "green ring", "dog")
Tiny = Callable[..., str]


@cache
def loaded(model: str) -> Backbone:
    """A model as it lies on the disk."""
    return Backbone.load(model, engine="torch")


def classifier(model: str, part: Part | None) -> Classifier:
    """Random prototypes on a model whose `part` was moved, as training moves it."""
    clip = loaded(model).copy()
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in clip.parameters(part).values() if part else ():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=noise))
    width = clip.fingerprint().shape[1]
    weights = torch.nn.functional.normalize(torch.randn(5, width, generator=noise), dim=-1)
    head = CosineHead(weights, clip.logit_scale.detach())
    classes = Classes.of(NAMES)
    return Classifier(Representation((clip,), part), head, classes, "latteclip", {"alpha": 0.9})


@pytest.fixture(scope="module")
def saved_once(tiny_clip: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier whose head was trained; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    classifier(tiny_clip(), "head").save(folder)
    return folder


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    """A saved classifier whose head was trained."""
    return shutil.copytree(saved_once, tmp_path / "saved")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in load_file(folder / "classifier.safetensors").items()}


def settings(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "classifier.json").read_text())
    return value


@pytest.mark.parametrize(
    ("kind", "part"),
    [("causal", None), ("causal", "head"), ("huggingface", "tail"), ("timm", "all")],
)
def test_load__gives_back_what_was_saved(
    tiny_clip: Tiny, images: Path, tmp_path: Path, kind: str, part: Part | None
) -> None:
    before = classifier(tiny_clip(kind), part)
    before.save(tmp_path / "model")
    after = Classifier.load(str(tmp_path / "model"), engine="torch")
    assert before.predict_proba(images).tobytes() == after.predict_proba(images).tobytes()
    assert (after.representation.part, after.method, after.fields) == (
        part,
        "latteclip",
        {"alpha": 0.9},
    )
    assert after.classes == before.classes
    assert after.classes_ == list(NAMES)
    changed = loaded(tiny_clip(kind)).weights_sha256 != after.clip.weights_sha256
    assert changed == (part is not None)


@pytest.mark.parametrize("part", ["tail", "all"])
def test_load__a_tower_without_a_projection(tiny_clip: Tiny, tmp_path: Path, part: Part) -> None:
    before = classifier(tiny_clip("siglip"), part)
    before.save(tmp_path)
    after = Classifier.load(tmp_path)
    assert torch.equal(before.clip.fingerprint(), after.clip.fingerprint())
    assert torch.equal(before.head.weights, after.head.weights)


def two_towers(model: str, part: Part) -> Classifier:
    """One whose weights read the trained tower and, beside it, the model as it was loaded."""
    made = classifier(model, part)
    weights = torch.cat([made.head.weights, made.head.weights.flip(0)], dim=1) / 2**0.5
    towers = (made.clip, Backbone.load(model, engine="torch"))
    return replace(
        made,
        representation=replace(made.representation, towers=towers),
        head=replace(made.head, weights=weights),
    )


def test_load__gives_back_both_towers(tiny_clip: Tiny, images: Path, tmp_path: Path) -> None:
    part: Part = "tail"
    before, single = two_towers(tiny_clip(), part), classifier(tiny_clip(), part)
    before.save(tmp_path)
    after = Classifier.load(tmp_path, engine="torch")
    probabilities = before.predict_proba(images)
    assert probabilities.tobytes() == after.predict_proba(images).tobytes()
    beside, beside_after = before.representation.towers[1], after.representation.towers[1]
    assert beside_after.weights_sha256 == beside.weights_sha256
    assert after.clip.weights_sha256 != beside_after.weights_sha256
    one = single.predict_proba(images)
    weights = before.head.weights[:, 24:] * 2**0.5
    two = replace(
        single,
        representation=single.representation.with_clip(beside),
        head=CosineHead(weights, beside.logit_scale.detach()),
    )
    sharper = float((before.clip.logit_scale / beside.logit_scale).detach())
    logits = np.log(one) + sharper * np.log(two.predict_proba(images))  # but for a constant
    odds = np.exp(logits / 2)
    assert probabilities == pytest.approx(odds / odds.sum(1, keepdims=True), abs=1e-5)


def test_load__of_both_towers_is_strict(tiny_clip: Tiny, tmp_path: Path) -> None:
    """With everything trained, the weights on disk matter to the tower beside alone."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip().removeprefix("local-dir:"), folder)
    two_towers(f"local-dir:{folder}", "all").save(tmp_path / "two")
    classifier(f"local-dir:{folder}", "all").save(tmp_path / "one")
    saved = settings(tmp_path / "two")
    for wrong in ({"beside": False}, {"beside": "true"}, {"beside": None}):
        (tmp_path / "two" / "classifier.json").write_text(json.dumps(saved | wrong))
        with pytest.raises(ModelError):
            Classifier.load(tmp_path / "two")
    (tmp_path / "two" / "classifier.json").write_text(json.dumps(saved))
    Classifier.load(tmp_path / "two")
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.conv1.weight"] = weights["visual.conv1.weight"].flip(0)
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    Classifier.load(tmp_path / "one")
    with pytest.raises(ModelError, match="features of synthetic images show"):
        Classifier.load(tmp_path / "two")
    (tmp_path / "one" / "classifier.json").write_text(
        json.dumps(settings(tmp_path / "one") | {"beside": True})
    )
    with pytest.raises(ModelError, match="the width of features"):
        Classifier.load(tmp_path / "one")


def test_load__of_before_there_were_two_towers(saved: Path) -> None:
    old = {name: value for name, value in settings(saved).items() if name != "beside"}
    (saved / "classifier.json").write_text(json.dumps(old))
    assert len(Classifier.load(saved).representation.towers) == 1


def test_save__twice_the_same_bytes(tiny_clip: Tiny, saved: Path, tmp_path: Path) -> None:
    classifier(tiny_clip(), "head").save(tmp_path / "again")
    for name in ("classifier.safetensors", "classifier.json"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert {path.name for path in saved.iterdir()} == {"classifier.safetensors", "classifier.json"}
    assert (saved / "classifier.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    now = os.umask(0o22)
    os.umask(now)
    return now


def test_probabilities__softmax_of_scaled_cosines(tiny_clip: Tiny) -> None:
    made = classifier(tiny_clip(), None)
    features = torch.nn.functional.normalize(torch.randn(3, 24), dim=-1)
    scale = made.clip.model.logit_scale.exp().item()
    for f, probabilities in zip(features, made.probabilities(features), strict=True):
        powers = [np.exp(scale * float(f @ p)) for p in made.head.weights]
        assert probabilities.tolist() == pytest.approx([p / sum(powers) for p in powers], rel=1e-4)


def test_predict__a_folder_a_list_and_photos(saved: Path, images: Path) -> None:
    made = Classifier.load(saved, engine="torch")
    files = sorted(images.rglob("*.*"))
    probabilities = made.predict_proba(images)
    assert probabilities.shape == (14, 5)
    assert probabilities.sum(1) == pytest.approx(np.ones(14), abs=1e-5)
    assert made.predict(images) == [NAMES[c] for c in probabilities.argmax(1)]
    assert np.array_equal(made.predict_proba(str(images)), probabilities)
    assert np.array_equal(made.predict_proba(ImageDataset.read(images)), probabilities)
    assert np.array_equal(made.predict_proba(files), probabilities)
    backwards = made.predict_proba([str(path) for path in files[::-1]])
    assert backwards == pytest.approx(probabilities[::-1], abs=1e-6)


def test_predict__a_bad_image_and_none(saved: Path, images: Path) -> None:
    made = Classifier.load(saved)
    with pytest.raises(RequestError, match="at least one image"):
        made.predict([])
    (images / "blue disc" / "1.png").write_bytes(b"torn")
    with pytest.raises(ImageError, match="not an image: blue disc/1.png") as bad:
        made.predict(images)
    assert bad.value.reason == "not an image"


class Sentinel:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


OVERLAP = b'{"weights":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
OVERLAP += b'"fingerprint":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
HUGE = b'{"weights":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}}'
DAMAGED = {
    "empty": b"",
    "no header": b"\x00" * 5,
    "header of 2^63 bytes": header(b"{}", 2**63) + b"\0" * 64,
    "header beyond the end": header(b"{}", 9999),
    "header that is no JSON": header(b"[1, 2") + b"\0" * 8,
    "header of lists": header(b"[]"),
    "overlapping tensors": header(OVERLAP) + b"\0" * 12,
    "an endless tensor": header(HUGE) + b"\0" * 8,
    "deep nesting": header(b"[" * 100_000),
    "nothing in it": header(b"{}"),
}


def test_load__damaged_tensors(saved: Path) -> None:
    for damage, content in DAMAGED.items():
        (saved / "classifier.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="classifier.safetensors"):
            Classifier.load(saved)
            pytest.fail(damage)


def test_load__never_unpickles(saved: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    for name in ("classifier.safetensors", "classifier.json"):
        whole = (saved / name).read_bytes()
        for protocol in (0, 2, 5):
            (saved / name).write_bytes(pickle.dumps(Sentinel(sentinel), protocol))
            with pytest.raises(ModelError):
                Classifier.load(saved)
        (saved / name).write_bytes(whole)
    assert not sentinel.exists()
    pickle.loads(pickle.dumps(Sentinel(sentinel))).close()
    assert sentinel.exists(), "the trap itself works"


def test_load__truncated_anywhere(saved: Path) -> None:
    whole = (saved / "classifier.safetensors").read_bytes()
    for size in (7, 8, 100, len(whole) // 2, len(whole) - 1):
        (saved / "classifier.safetensors").write_bytes(whole[:size])
        with pytest.raises(ModelError):
            Classifier.load(saved)


@pytest.mark.parametrize(
    ("name", "value"),
    [("weights", np.nan), ("fingerprint", np.inf), ("parameter.logit_scale", -np.inf)],
)
def test_load__numbers_that_are_none(saved: Path, name: str, value: float) -> None:
    found = tensors(saved)
    found[name].view(-1)[0] = value
    save_file(found, saved / "classifier.safetensors")
    with pytest.raises(ModelError, match=f"'{name}' is not float32 or not finite"):
        Classifier.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": torch.ones(4, 24)},
        {"weights": torch.ones(120)},
        {"weights": torch.tensor(1.0)},
        {"weights": torch.full((5, 24), 3e38)},
        {"weights": torch.ones(5, 24, dtype=torch.int64)},
        {"weights": torch.ones(5, 24, dtype=torch.complex64)},
        {"weights": torch.ones(5, 24).to(torch.float8_e4m3fn)},
        {"fingerprint": torch.ones(3, 23)},
        {"fingerprint": torch.ones(3, 24)},
        {"parameter.visual.proj": torch.ones(24, 32)},
        {"parameter.visual.proj": None},
        {"parameter.visual.conv1.weight": torch.ones(32, 3, 16, 16)},
        {"extra": torch.ones(2)},
        {"weights": None},
    ],
    ids=lambda change: "-".join(
        f"{name}-{tuple(t.shape)}-{t.dtype}" if t is not None else f"no {name}"
        for name, t in change.items()
    ),
)
def test_load__other_tensors(saved: Path, change: dict[str, torch.Tensor | None]) -> None:
    found = {n: t for n, t in (tensors(saved) | change).items() if t is not None}
    save_file(found, saved / "classifier.safetensors")
    with pytest.raises(ModelError):
        Classifier.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": "1"},
        {"more": 1},
        {"__reduce__": "os.system"},
        {"method": 3},
        {"part": "everything"},
        {"part": None},
        {"part": "tail"},
        {"classes": []},
        {"classes": {"names": ["a"], "kinds": ["named"], "prompts": ["a"]}},
        {"classes": {"names": ["a"] * 5, "kinds": ["named"] * 5, "prompts": ["a"] * 5}},
        {"classes": {"names": [], "kinds": [], "prompts": [], "more": 1}},
        {"model": "local-dir:/nowhere"},
        {"model": 7},
        {"preprocessing": {}},
        {"fields": None},
        {"scale": 10**40},
    ],
    ids=str,
)
def test_load__other_settings(saved: Path, change: dict[str, Any]) -> None:
    (saved / "classifier.json").write_text(json.dumps(settings(saved) | change))
    with pytest.raises(ModelError) as refused:
        Classifier.load(saved)
    assert "pydantic" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_load__settings_that_are_no_object(saved: Path) -> None:
    for text in ("", "{", "null", "[1]", "NaN", "[" * 100_000, "\ud800"):
        (saved / "classifier.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ModelError, match="classifier.json"):
            Classifier.load(saved)


def test_load__a_setting_is_missing(saved: Path) -> None:
    whole = settings(saved)
    for key in ("model", "method", "classes", "preprocessing", "part", "format"):
        left = {name: value for name, value in whole.items() if name != key}
        (saved / "classifier.json").write_text(json.dumps(left))
        with pytest.raises(ModelError, match=key):
            Classifier.load(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this system's folders")
@pytest.mark.parametrize("name", ["classifier.json", "classifier.safetensors"])
@pytest.mark.timeout(60)
def test_load__a_pipe_or_nothing(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing; give the folder `model`"):
        Classifier.load(saved)
    os.mkfifo(saved / name)
    with pytest.raises(ModelError, match=f"{name} is missing"):
        Classifier.load(saved)


def test_load__swapped_mean_and_deviation(saved: Path) -> None:
    value = settings(saved)
    pixels = value["preprocessing"]
    pixels["mean"], pixels["std"] = pixels["std"], pixels["mean"]
    (saved / "classifier.json").write_text(json.dumps(value))
    with pytest.raises(ModelError, match="its preprocessing differs"):
        Classifier.load(saved)


@pytest.mark.parametrize("part", [None, "head"])
def test_load__swapped_weights(tiny_clip: Tiny, tmp_path: Path, part: Part | None) -> None:
    """The model's folder now holds other weights of the same shapes."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip().removeprefix("local-dir:"), folder)
    classifier(f"local-dir:{folder}", part).save(tmp_path / "saved")
    Classifier.load(tmp_path / "saved")
    weights = load_file(folder / "open_clip_model.safetensors")
    noise = torch.Generator().manual_seed(1)
    conv = weights["visual.conv1.weight"]
    weights["visual.conv1.weight"] = torch.randn(conv.shape, generator=noise) * conv.std()
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights differ \(sha256\): they have changed since"):
        Classifier.load(tmp_path / "saved")
    of_before = settings(tmp_path / "saved")
    del of_before["weights_sha256"]  # 0.1 did not write it
    (tmp_path / "saved" / "classifier.json").write_text(json.dumps(of_before))
    with pytest.raises(ModelError, match="features of synthetic images show"):
        Classifier.load(tmp_path / "saved")


@pytest.mark.parametrize("part", [None, "head"])
def test_load__one_changed_weight_of_the_text_tower(
    tiny_clip: Tiny, tmp_path: Path, part: Part | None
) -> None:
    """No image shows it, but names are read by it."""
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip().removeprefix("local-dir:"), folder)
    classifier(f"local-dir:{folder}", part).save(tmp_path / "saved")
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["transformer.resblocks.0.mlp.c_fc.bias"][2] += 1e-3
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights differ \(sha256\)"):
        Classifier.load(tmp_path / "saved")


@pytest.mark.parametrize("part", [None, "head", "tail", "all"])
def test_load__a_model_that_has_moved(
    tiny_clip: Tiny, tmp_path: Path, images: Path, part: Part | None
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(tiny_clip().removeprefix("local-dir:"), folder)
    made = classifier(f"local-dir:{folder}", part)
    made.save(tmp_path / "saved")
    folder.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match="holds no open_clip_config.json"):
        Classifier.load(tmp_path / "saved")
    found = Classifier.load(tmp_path / "saved", model=f"local-dir:{tmp_path / 'moved'}")
    assert found.predict(images) == made.predict(images)
    if part != "all":
        with pytest.raises(ModelError, match="does not match local-dir:"):
            Classifier.load(tmp_path / "saved", model=tiny_clip("coca"))


def test_load__a_huge_unknown_tensor_is_not_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved / "classifier.safetensors"
    save_file({**load_file(path), "more": torch.zeros(1)}, path)
    monkeypatch.setattr(loading, "load_file", lambda *_: pytest.fail("read"))
    with pytest.raises(ModelError, match="it has an unknown tensor 'more'"):
        Classifier.load(saved)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "part"),
    [("causal", None), ("huggingface", "tail"), ("siglip", "tail"), ("coca", "tail")],
)
def test_load__gives_back_features_before_the_projection(
    tiny_clip: Tiny, images: Path, tmp_path: Path, kind: str, part: Part | None
) -> None:
    """Of the trained tail, with a temperature of their own and a bias."""
    made = classifier(tiny_clip(kind), part)
    width = made.clip.pooled(made.clip.trunk(made.clip.synthetic(), "head"), "head").shape[1]
    noise = torch.Generator().manual_seed(1)
    weights, bias = torch.randn(5, width, generator=noise), torch.randn(5, generator=noise)
    representation = replace(made.representation, space="pooled")
    before = replace(made, representation=representation, head=Linear(weights, bias, 3.5))
    before.save(tmp_path / "model")
    after = Classifier.load(tmp_path / "model", engine="torch")
    probabilities = before.predict_proba(images)
    assert probabilities.tobytes() == after.predict_proba(images).tobytes()
    dataset = ImageDataset.read(images)
    views = torch.stack(
        [made.clip.preprocessing.view(open_image(dataset.path(i))) for i in range(14)]
    )
    v = made.clip.pooled(made.clip.trunk(made.clip.preprocessing.normalise(views), "all"), "all")
    v = torch.nn.functional.normalize(v, dim=-1)
    wanted = (3.5 * (v @ weights.T + bias)).softmax(1)
    assert torch.allclose(torch.from_numpy(probabilities), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"pooled": False}, {"pooled": "true"}, {"scale": 0}, {"scale": -1.0}, {"scale": "ten"}],
    ids=str,
)
def test_load__of_another_way_of_seeing_is_refused(
    tiny_clip: Tiny, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    made = classifier(tiny_clip(), None)
    representation = replace(made.representation, space="pooled")
    head = CosineHead(torch.ones(5, 32), 2.0)
    replace(made, representation=representation, head=head).save(tmp_path)
    Classifier.load(tmp_path)
    (tmp_path / "classifier.json").write_text(json.dumps(settings(tmp_path) | wrong))
    with pytest.raises(ModelError):
        Classifier.load(tmp_path)


def test_load__of_a_bias_for_other_classes_is_refused(tiny_clip: Tiny, tmp_path: Path) -> None:
    made = classifier(tiny_clip(), None)
    head = Linear(made.head.weights, torch.ones(5), made.head.scale)
    replace(made, head=head).save(tmp_path)
    Classifier.load(tmp_path)
    save_file(tensors(tmp_path) | {"bias": torch.ones(4)}, tmp_path / "classifier.safetensors")
    with pytest.raises(ModelError, match="the number of classes differs"):
        Classifier.load(tmp_path)
