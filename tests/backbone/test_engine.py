"""Engines: as PyTorch says, only faster; whatever does not agree is not used."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import anyclass.backbone.engine
import anyclass.backbone.onnx_trunk
from anyclass.backbone import Backbone, EngineName, Part
from anyclass.backbone.engine import AGREEMENT, ENGINES, Engine, engine
from anyclass.backbone.model_metadata import ModelMetadata
from anyclass.backbone.onnx_trunk import AT_ONCE
from anyclass.errors import RequestError

Tiny = Callable[..., str]
AMX = {"amx_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}
FASTEST = anyclass.backbone.engine._fastest


@pytest.fixture(autouse=True)
def fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere "auto" is PyTorch, which starts at once; nothing is known of the models."""
    monkeypatch.setattr(anyclass.backbone.engine, "_fastest", FASTEST)
    monkeypatch.setattr("anyclass.backbone.backbone.cached_metadata", lambda *_: ModelMetadata())


def noise(clip: Backbone, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    shape = (count, 3, *clip.preprocessing.size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def trunk(clip: Backbone, pixels: Tensor, part: Part) -> Tensor:
    return clip.trunk(clip.preprocessing.normalise(pixels), part)


@torch.no_grad()
def difference(clip: Backbone, part: Part, made: Engine, count: int) -> float:
    """How far it is from PyTorch, of images that the engine has not been tried on.

    The features agree to a cosine above 0.999; of the trunk's output this is the relative distance,
    as random towers hardly tell images apart.
    """
    pixels = noise(clip, count)
    hidden, wanted = made.run(pixels), trunk(clip, pixels, part)
    assert hidden.dtype == torch.float32
    assert hidden.shape == wanted.shape
    features = clip.tail(hidden, part)
    expected = clip.images(clip.preprocessing.normalise(pixels))
    assert cosine_similarity(features, expected).min().item() > AGREEMENT
    return ((hidden - wanted).norm() / wanted.norm()).item()


ONNX = [("huggingface", "tail")]
SLOW = [("huggingface", "head")]
SLOW += [(kind, part) for kind in ("causal", "siglip", "coca", "timm") for part in ("head", "tail")]


@pytest.mark.parametrize(
    ("kind", "part"), [*ONNX, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]
)
def test_onnx__agrees_with_torch(tiny_clip: Tiny, kind: str, part: Part) -> None:
    clip = Backbone.load(tiny_clip(kind), engine="onnx")
    made = engine(clip, part)
    assert made.name == "onnx"
    for count in (1, 5):  # any number of images at once
        assert difference(clip, part, made, count) < 1e-4


def test_onnx__keeps_the_order_of_images_that_threads_share(tiny_clip: Tiny) -> None:
    clip = Backbone.load(tiny_clip("huggingface"), engine="onnx")
    made = engine(clip, "tail")
    pixels = noise(clip, 4 * AT_ONCE + 1)
    one_by_one = torch.cat([made.run(image[None]) for image in pixels])
    torch.testing.assert_close(made.run(pixels), one_by_one, rtol=1e-4, atol=1e-5)
    assert made.run(pixels[:0]).shape == (0, *one_by_one.shape[1:])


@torch.no_grad()
def test_bf16__agrees_with_torch(every_clip: str) -> None:
    clip = Backbone.load(every_clip, engine="bf16")
    for part in ("head", "tail"):
        made = engine(clip, part)
        assert made.name == "bf16"
        assert 1e-4 < difference(clip, part, made, 5) < 0.05  # it has computed in halves


@torch.no_grad()
def test_torch__is_the_trunk(every_backbone: Backbone) -> None:
    clip = every_backbone
    for part in ("head", "tail"):
        made = engine(clip, part)
        assert made.name == "torch"
        assert torch.equal(made.run(noise(clip, 2)), trunk(clip, noise(clip, 2), part))


@pytest.mark.parametrize("name", ["auto", "torch", "bf16", "onnx"])
def test_all__is_always_torch(tiny_clip: Tiny, name: EngineName) -> None:
    clip = Backbone.load(tiny_clip("causal"), engine=name)
    made = engine(clip, "all")
    assert made.name == "torch"
    assert torch.equal(made.run(noise(clip, 2)), clip.preprocessing.normalise(noise(clip, 2)))


@pytest.mark.parametrize(
    ("kind", "processor", "packages", "wanted"),
    [
        ("huggingface", AMX, True, "onnx"),  # convolutions
        ("huggingface", AMX, False, "torch"),
        ("causal", AMX, True, "bf16"),  # attention
        ("causal", {"avx512_bf16": True, "cpu_name": "AMD EPYC"}, True, "bf16"),
        ("causal", {"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, True, "onnx"),
        ("causal", {"cpu_name": "AMD EPYC"}, True, "onnx"),
        ("causal", {}, False, "torch"),
    ],
)
def test_auto__takes_the_fastest_that_is_there(
    tiny_clip: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    processor: dict[str, Any],
    packages: bool,
    wanted: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    monkeypatch.setattr(anyclass.backbone.engine, "find_spec", lambda name: packages or None)
    monkeypatch.setitem(ENGINES, "onnx", exact("onnx"))
    assert engine(Backbone.load(tiny_clip(kind)), "head").name == wanted


def exact(name: str) -> Callable[[Backbone, Part], Engine]:
    """An engine that is PyTorch under another name."""
    return lambda clip, part: Engine(name, lambda pixels: trunk(clip, pixels, part))


def wrong(clip: Backbone, part: Part) -> Engine:
    """An engine that takes its channels in the wrong order."""
    return Engine("wrong", lambda pixels: -trunk(clip, pixels, part).flip(1))


@pytest.mark.parametrize("name", ["onnx", "bf16"])
def test_engine__that_disagrees_is_refused(
    tiny_clip: Tiny, monkeypatch: pytest.MonkeyPatch, name: EngineName
) -> None:
    clip = Backbone.load(tiny_clip("causal"), engine=name)
    monkeypatch.setitem(ENGINES, name, wrong)
    with pytest.raises(RequestError, match=f"the {name} engine does not agree with PyTorch; use"):
        engine(clip, "head")


def fails(clip: Backbone, part: Part) -> Engine:
    raise RequestError("no such thing")


@pytest.mark.parametrize("instead", [wrong, fails])
def test_auto__falls_back_to_torch(
    tiny_clip: Tiny, monkeypatch: pytest.MonkeyPatch, instead: Any
) -> None:
    clip = Backbone.load(tiny_clip("causal"))
    monkeypatch.setitem(ENGINES, "onnx", instead)
    monkeypatch.setitem(ENGINES, "bf16", instead)
    made = engine(clip, "head")
    assert made.name == "torch"
    assert difference(clip, "head", made, 2) == 0


def test_onnx__that_is_not_installed(tiny_clip: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyclass.backbone.onnx_runtime, "find_spec", lambda name: None)
    clip = Backbone.load(tiny_clip("huggingface"), engine="onnx")
    with pytest.raises(RequestError, match=r"pip install 'anyclass\[onnx\]'"):
        engine(clip, "head")


def test_onnx__that_cannot_be_exported(
    tiny_clip: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise torch.onnx.OnnxExporterError("an operator is not supported")

    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(RequestError, match="could not be exported; use --engine torch"):
        engine(Backbone.load(tiny_clip("huggingface"), engine="onnx"), "head")
    assert engine(Backbone.load(tiny_clip("huggingface")), "head").name == "torch"
    assert list((tmp_path / "engines").iterdir()) == []


def test_onnx__that_is_too_large_for_one_file(
    tiny_clip: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    monkeypatch.setattr(anyclass.backbone.onnx_trunk, "LARGEST", 1000)
    with pytest.raises(RequestError, match="too large for one ONNX file; use --engine torch"):
        engine(Backbone.load(tiny_clip("huggingface"), engine="onnx"), "head")


def test_onnx__is_exported_once_and_again_where_damaged(
    tiny_clip: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path
) -> None:
    clip = Backbone.load(tiny_clip("huggingface"), engine="onnx")
    wanted = engine(clip, "tail").run(noise(clip, 2))
    copy = shutil.copytree(own_cache / "engines", tmp_path / "engines")
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    (path,) = copy.glob(f"{clip.frozen_sha256('tail')[:32]}-tail-64x64.onnx")
    good, exports = path.read_bytes(), []

    def export(clip: Backbone, part: Part, path: Path) -> Path:
        exports.append(part)
        path.write_bytes(good)
        return path

    monkeypatch.setattr(anyclass.backbone.onnx_trunk, "_export", export)
    assert torch.equal(engine(clip, "tail").run(noise(clip, 2)), wanted)
    assert exports == []
    for count, size in enumerate([0, 5_000]):
        path.write_bytes(good[:size])
        assert torch.equal(engine(clip, "tail").run(noise(clip, 2)), wanted)
        assert len(exports) == count + 1


def test_onnx__of_another_size_of_images_is_another_file(
    tiny_clip: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    exports: list[Path] = []

    def export(clip: Backbone, part: Part, path: Path) -> Path:
        exports.append(path)
        path.touch()
        return path

    monkeypatch.setattr(anyclass.backbone.onnx_trunk, "_export", export)
    for size in (64, 96):
        clip = Backbone.load(tiny_clip("huggingface"))
        clip.model.visual.image_size = clip.model.visual.preprocess_cfg["size"] = (size, size)
        assert engine(clip.copy(), "head").name == "torch"  # the empty file is of no use
    assert len(set(exports)) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_cuda__takes_images_from_the_cpu(tiny_clip: Tiny) -> None:
    clip = Backbone.load(tiny_clip("causal"), device="cuda")
    made = engine(clip, "head")
    assert made.name == "torch"
    assert made.run(torch.zeros(2, 3, 48, 48, dtype=torch.uint8)).device == clip.device
    clip.engine = "bf16"
    assert engine(clip, "head").name == "bf16", "it agrees"


@pytest.mark.parametrize(
    ("asked", "on_cuda", "on_mps"),
    [("auto", "torch", "torch"), ("bf16", "bf16", "torch"), ("onnx", "torch", "torch")],
)
def test_engine__on_a_gpu_is_torch_or_what_is_asked_for(
    tiny_clip: Tiny, monkeypatch: pytest.MonkeyPatch, asked: Any, on_cuda: str, on_mps: str
) -> None:
    monkeypatch.setattr(
        anyclass.backbone.engine, "_agreeing", lambda clip, part, name: Engine(name, clip.trunk)
    )
    for device, wanted in {"cuda": on_cuda, "mps": on_mps}.items():
        clip = Backbone.load(tiny_clip("causal"), engine=asked)
        clip.device = torch.device(device)
        assert engine(clip, "head").name == wanted
        assert engine(clip, "all").name == "torch"
