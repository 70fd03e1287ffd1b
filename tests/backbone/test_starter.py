"""The starter model: assembled once and whole, an open_clip model like any other, and no fool."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import gelu, normalize

import anyclass.backbone.starter
from anyclass.backbone import Backbone
from anyclass.backbone.starter import (
    BRIDGE,
    PEAK,
    SPREAD,
    VERSION,
    WIDTH,
    class_units,
    starter_folder,
)
from anyclass.commands import emoji
from anyclass.data import open_bytes
from anyclass.errors import ModelError, RequestError
from anyclass.files import check_manifest, write_manifest

FILES = [
    *("config.json", "manifest.json", "open_clip_config.json", "open_clip_model.safetensors"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
]


@pytest.fixture(scope="session")
def starter(own_cache: Path) -> Path:
    """The assembled model in the cache of this test run."""
    return starter_folder()


@pytest.fixture(scope="session")
def clip(starter: Path) -> Backbone:
    return Backbone.load("starter", engine="torch")


@pytest.fixture
def building(starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A cache of its own, where building means to copy; the folders that were built."""
    built: list[Path] = []

    def assemble(folder: Path) -> None:
        built.append(folder)
        shutil.rmtree(folder, ignore_errors=True)
        draft = folder.with_name("draft")
        draft.mkdir(exist_ok=True)
        for name in FILES:
            if name == "open_clip_model.safetensors":
                (draft / name).symlink_to(starter / name)
            else:
                shutil.copyfile(starter / name, draft / name)
        place(draft, folder)
        draft.rename(folder)

    monkeypatch.setattr(anyclass.backbone.starter, "assemble", assemble)
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    return built


def place(draft: Path, folder: Path) -> None:
    """Write the folder's own place into its configuration."""
    path = draft / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(folder)
    path.write_text(json.dumps(config))
    write_manifest(draft)


def test_starter_folder__is_whole(starter: Path, own_cache: Path) -> None:
    assert starter == own_cache / "models" / VERSION
    assert sorted(path.name for path in starter.iterdir()) == FILES
    assert check_manifest(starter) == []
    assert not starter.with_name(VERSION + ".building").exists()


def test_starter_folder__is_built_once(building: list[Path]) -> None:
    assert starter_folder() == starter_folder() == building[0]
    assert len(building) == 1


def test_starter_folder__of_two_at_once_is_built_once(building: list[Path]) -> None:
    with ThreadPoolExecutor(4) as threads:
        folders = list(threads.map(lambda _: starter_folder(), range(4)))
    assert folders == building * 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "vocab.txt").unlink(),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "open_clip_config.json").write_bytes(b""),
        lambda folder: shutil.rmtree(folder),
    ],
)
def test_starter_folder__is_built_again_where_damaged(
    building: list[Path], damage: Callable[[Path], object]
) -> None:
    damage(starter_folder())
    folder = starter_folder()
    assert building == [folder, folder]
    assert check_manifest(folder) == []
    assert starter_folder() == folder
    assert len(building) == 2


def test_starter_folder__is_built_again_where_moved(
    building: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = starter_folder()
    (tmp_path / "cache").rename(tmp_path / "moved")
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "moved"))
    second = starter_folder()
    assert building == [first, second]
    config = json.loads((second / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == str(second) != str(first)


@pytest.mark.parametrize("constant", ["_IMAGE_WEIGHTS", "_TEXT_WEIGHTS"])
def test_starter_folder__refuses_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    monkeypatch.setattr(anyclass.backbone.starter, constant, "0" * 64)
    with pytest.raises(ModelError, match=r"is not the file anyclass was made for \(sha256\)"):
        starter_folder()
    assert not (tmp_path / "models" / VERSION).exists()


def test_starter_folder__says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    monkeypatch.setattr(anyclass.backbone.starter, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'anyclass\[starter\]'"):
        starter_folder()


@torch.no_grad()
def test_starter__is_an_open_clip_model_like_any_other(starter: Path, clip: Backbone) -> None:
    import open_clip

    name = f"local-dir:{starter}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    photo = sample("flower.jpg")
    seen = normalize(model.encode_image(preprocess(photo)[None]), dim=1)
    view = clip.preprocessing.normalise(clip.preprocessing.view(photo)[None])
    torch.testing.assert_close(clip.images(view), seen, rtol=0, atol=1e-4)
    texts = ["a photo of a dog.", "a photo of a small wooden house by the sea."]
    said = normalize(model.encode_text(tokenizer(texts)), dim=1)
    torch.testing.assert_close(clip.texts(texts), said, rtol=0, atol=1e-5)
    assert clip.logit_scale.item() == pytest.approx(float(load_file(BRIDGE)["logit_scale"].exp()))
    assert clip.preprocessing.mean == (127 / 255,) * 3
    assert clip.preprocessing.std == (128 / 255,) * 3


@torch.no_grad()
def test_starter__image_tower_is_the_released_classifier(clip: Backbone) -> None:
    image_file, _ = anyclass.backbone.starter._packaged_files()
    released = torch.load(image_file, map_location="cpu", weights_only=True)
    photo = clip.preprocessing.view(sample("flower.jpg"))
    pooled = clip.trunk(clip.preprocessing.normalise(photo[None]), "head")
    logits = pooled @ released["_fc.weight"].T + released["_fc.bias"]
    assert int(logits.argmax()) == 985  # daisy


def sample(name: str) -> Image.Image:
    """One of the two photographs that scikit-learn brings: a flower, a Chinese palace."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(name))


@torch.no_grad()
def test_starter__a_large_photograph_decoded_at_half_its_size_has_nearly_the_same_feature(
    clip: Backbone,
) -> None:
    large = sample("china.jpg").resize((2049, 1367), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=92)
    least = replace(clip.preprocessing, decoding="reduced").shorter_side
    decoded = [open_bytes(file.getvalue(), shorter_side=side) for side in (0, least)]
    assert [image.size for image in decoded] == [(2049, 1367), (1025, 684)]
    views = torch.stack([clip.preprocessing.view(image) for image in decoded])
    full, reduced = clip.images(clip.preprocessing.normalise(views))
    assert float(full @ reduced) > 0.998


@torch.no_grad()
@pytest.mark.parametrize(("name", "wanted"), [("flower.jpg", "flower"), ("china.jpg", "palace")])
def test_starter__knows_a_flower_from_a_palace(clip: Backbone, name: str, wanted: str) -> None:
    things = ["dog", "palace", "car", "flower", "fish", "guitar", "chair", "pizza", "bird", "boat"]
    view = clip.preprocessing.view(sample(name))
    feature = clip.images(clip.preprocessing.normalise(view[None]))
    scores = (feature @ clip.texts([f"a photo of a {thing}." for thing in things]).T)[0]
    assert things[int(scores.argmax())] == wanted


@pytest.fixture(scope="session")
def classifier() -> tuple[Tensor, Tensor]:
    """Weights and biases of the image tower's own classifier."""
    image_file, _ = anyclass.backbone.starter._packaged_files()
    released = torch.load(image_file, map_location="cpu", weights_only=True)
    return released["_fc.weight"], released["_fc.bias"]


def test_class_units__read_centred_logits(classifier: tuple[Tensor, Tensor]) -> None:
    rows, biases = classifier
    weight, bias = class_units(rows, biases)
    f = torch.rand(3, 1280, generator=torch.Generator().manual_seed(5))
    logits = f @ rows.T + biases
    centred = logits - logits.mean(1, keepdim=True)
    wanted = (centred - PEAK) / SPREAD - 0.75
    torch.testing.assert_close(f @ weight.T + bias, wanted, rtol=0, atol=1e-4)


def test_class_units__grow_like_an_exponential() -> None:
    """The logarithm of -GELU rises by 0.92 a logit at 1, by 0.33 at 10 and no more at PEAK."""
    z = torch.linspace(1, PEAK, 49, dtype=torch.float64)
    grown = (-gelu((z - PEAK) / SPREAD - 0.75)).log()
    slope = grown.diff() / z.diff()
    found = [float(slope[i]) for i in (0, 35, -1)]  # at 1, just below 10, just below 13
    assert found == pytest.approx([0.92, 0.33, 0.02], abs=0.01)


def test_bridge__is_what_the_package_ships() -> None:
    bridge = load_file(BRIDGE)
    shapes = {name: tuple(tensor.shape) for name, tensor in bridge.items()}
    assert shapes == {
        "picture_units": (2 * WIDTH - 1000, 1280),
        "picture_biases": (2 * WIDTH - 1000,),
        "image_projection": (WIDTH, 2 * WIDTH),
        "text_projection": (WIDTH, 384),
        "text_centre": (384,),
        "logit_scale": (),
    }
    assert all(torch.isfinite(tensor).all() for tensor in bridge.values())
    assert BRIDGE.stat().st_size < 6_000_000


@torch.no_grad()
def test_starter__names_find_their_classes(
    clip: Backbone, classifier: tuple[Tensor, Tensor]
) -> None:
    """A feature that the classifier gives the logit 9 for one class lies next to that name."""
    from open_clip import IMAGENET_CLASSNAMES

    rows, some = classifier[0] - classifier[0].mean(0), list(range(0, 1000, 16))
    ideal = 9 * rows[some] / (rows[some] ** 2).sum(1, keepdim=True)
    said = clip.texts([f"a photo of a {IMAGENET_CLASSNAMES[c]}." for c in some])
    found = (clip.tail(ideal, "head") @ said.T).argmax(1)
    assert (found == torch.arange(63)).float().mean() > 0.9


@torch.no_grad()
def test_starter__knows_drawings(
    clip: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drawings each of twelve classes of the demo, which no bridge was trained on."""
    some = dict(list(emoji.IMAGES.items())[:12])
    monkeypatch.setattr(emoji, "IMAGES", {name: drawn[:2] for name, drawn in some.items()})
    paths = sorted(emoji.draw(tmp_path).rglob("*.png"))
    views = torch.stack([clip.preprocessing.view(Image.open(path)) for path in paths])
    texts = clip.texts([f"a photo of a {name}." for name in some])
    found = (clip.images(clip.preprocessing.normalise(views)) @ texts.T).argmax(1)
    right = torch.tensor([list(some).index(path.parent.name) for path in paths])
    assert (found == right).float().mean() > 0.5  # 1 in 12 by chance


@pytest.mark.slow
def test_starter_folder__of_two_processes_at_once(tmp_path: Path, starter: Path) -> None:
    code = "from anyclass.backbone.starter import starter_folder; print(starter_folder())"
    here = os.environ | {"ANYCLASS_CACHE": str(tmp_path)}
    made = [
        subprocess.Popen([sys.executable, "-c", code], env=here, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folder = tmp_path / "models" / VERSION
    assert [process.communicate()[0].strip() for process in made] == [str(folder)] * 2
    assert [process.returncode for process in made] == [0, 0]
    assert check_manifest(folder) == []
    for name in set(FILES) - {"manifest.json", "open_clip_config.json"}:  # the same to the bit
        assert (folder / name).read_bytes() == (starter / name).read_bytes()


@pytest.mark.slow
def test_starter_folder__continues_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path))
    half = tmp_path / "models" / (VERSION + ".building")
    half.mkdir(parents=True)
    (half / "vocab.txt").write_text("half")
    (half / "stray.txt").write_text("half")
    folder = starter_folder()
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert not half.exists()
