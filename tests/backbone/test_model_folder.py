"""A model folder from somebody else: refused before a library reads it, in one line."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyclass.backbone import Backbone
from anyclass.errors import ModelError
from tests.backbone.test_loading import WEIGHTS, Payload, change, copied, refused, text_config

CONFIG = "open_clip_config.json"


@pytest.fixture
def folder(tiny_clip: Callable[..., str], tmp_path: Path) -> Path:
    """A copy of the causal model, to be damaged."""
    return copied(tiny_clip("causal"), tmp_path)


@pytest.fixture
def hugging(tiny_clip: Callable[..., str], tmp_path: Path) -> Path:
    """A copy of the model with a text tower of transformers, which reads its own folder."""
    folder = copied(tiny_clip("huggingface"), tmp_path)
    change(folder, text_cfg=text_config(folder) | {"hf_model_name": str(folder)})
    return folder


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks on standard input gets a yes, and fails the test."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on standard input"))


def add(path: Path, **keys: Any) -> None:
    """Further keys in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def own_code(folder: Path, base: str) -> Path:
    """Code in a folder that leaves a file behind when it is run; that file."""
    ran = folder / "ran"
    (folder / "own.py").write_text(
        f"from pathlib import Path\nfrom transformers import {base}\n"
        f"Path({str(ran)!r}).touch()\nclass Own({base}):\n    model_type = 'own'\n"
    )
    return ran


def test_load__code_of_a_configuration_is_refused(hugging: Path) -> None:
    ran = own_code(hugging, "PretrainedConfig")
    add(hugging / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    said = refused(hugging)
    assert said.endswith("config.json wants to run code of its own (auto_map): refused")
    assert not ran.exists()


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code"])
def test_load__code_of_a_tokenizer_configuration_is_refused(folder: Path, key: str) -> None:
    ran = own_code(folder, "PreTrainedTokenizerFast")
    auto_map = {"AutoTokenizer": ["own.Own", "own.Own"]}
    value = auto_map if key == "auto_map" else True
    add(folder / "tokenizer_config.json", tokenizer_class="Own", **{key: value})
    assert refused(folder).endswith(f"wants to run code of its own ({key}): refused")
    assert not ran.exists()


def test_load__code_of_another_folder_is_refused(hugging: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    ran = own_code(other, "PretrainedConfig")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (other / "config.json").write_text(json.dumps(own))
    change(hugging, text_cfg=text_config(hugging) | {"hf_model_name": str(other)})
    assert "wants to run code of its own (auto_map)" in refused(hugging)
    assert not ran.exists()


def test_load__transformers_never_asks(hugging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the check above sees nothing: text towers of the hub have their own code."""
    ran = own_code(hugging, "PretrainedConfig")
    add(hugging / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    monkeypatch.setattr("anyclass.backbone.model_folder.check_code", lambda name, config: None)
    assert "could not be loaded" in refused(hugging)
    assert not ran.exists()


@pytest.mark.parametrize("pickled", ["open_clip_pytorch_model.bin", "pytorch_model.bin", "a.pth"])
def test_load__a_decoy_does_not_let_pickles_in(
    folder: Path, pickled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / pickled)
    (folder / WEIGHTS).unlink()
    save_file({"decoy": torch.zeros(1)}, folder / "decoy.safetensors")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    assert refused(folder).startswith(
        f"local-dir:{folder} could not be loaded: Error(s) in loading"
    )


def test_load__safetensors_of_any_name_are_taken(folder: Path) -> None:
    wanted = Backbone.load(f"local-dir:{folder}").weights_sha256
    (folder / WEIGHTS).rename(folder / "own.safetensors")
    torch.save({"visual.proj": Payload(folder / "ran")}, folder / "open_clip_pytorch_model.bin")
    assert Backbone.load(f"local-dir:{folder}").weights_sha256 == wanted


@pytest.mark.parametrize("inside", [True, False])
def test_load__a_pretrained_text_tower_is_not_unpickled(
    hugging: Path, tmp_path: Path, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = hugging if inside else tmp_path / "elsewhere"
    if not inside:
        place.mkdir()
        (place / "config.json").write_text((hugging / "config.json").read_text())
    torch.save({"embeddings": Payload(tmp_path / "ran")}, place / "pytorch_model.bin")
    text = text_config(hugging) | {"hf_model_name": str(place), "hf_model_pretrained": True}
    change(hugging, text_cfg=text)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    Backbone.load(f"local-dir:{hugging}")  # from the safetensors
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["local-dir:{}", "hf-hub:somebody/model", "../{}", "resnet18/x"])
def test_load__an_image_tower_from_elsewhere_is_refused(
    folder: Path, tmp_path: Path, name: str
) -> None:
    tower = name.format(tmp_path / "tower")
    vision = {"timm_model_name": tower, "timm_model_pretrained": True, "image_size": 48}
    change(folder, vision_cfg=vision)
    assert f"timm has no model {tower!r:.60}" in refused(folder)[:5000]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_load__weights_that_are_no_numbers(folder: Path, value: float) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["ln_final.bias"][3] = value
    save_file(weights, folder / WEIGHTS)
    assert refused(folder) == (
        f"local-dir:{folder} has damaged weights: ln_final.bias holds NaN or infinity"
    )


@pytest.mark.parametrize(
    ("tower", "sizes", "said"),
    [
        ("vision_cfg", {"layers": 10**9}, "layers is 1000000000, out of bounds"),
        ("vision_cfg", {"layers": -1}, "layers is -1, out of bounds"),
        ("vision_cfg", {"layers": [3, 4, 10**9, 3]}, "layers is 1000000000, out of bounds"),
        ("vision_cfg", {"width": 2 * 10**6}, "its configuration describes"),
        ("vision_cfg", {"image_size": 10**6}, "image_size is 1000000, out of bounds"),
        ("text_cfg", {"context_length": 10**6}, "context_length is 1000000, out of bounds"),
        ("text_cfg", {"vocab_size": 10**9}, "vocab_size is 1000000000, out of bounds"),
        ("text_cfg", {"vocab_size": 9 * 10**6}, "its configuration describes"),
        ("text_cfg", {"layers": 900, "width": 4000}, "its configuration describes"),
        ("text_cfg", {"layers": float("inf")}, "layers is inf, out of bounds"),
    ],
)
def test_load__sizes_are_bounded_before_anything_is_built(
    folder: Path, tower: str, sizes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    config = json.loads((folder / CONFIG).read_text())["model_cfg"][tower]
    change(folder, **{tower: config | sizes})
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("built"))
    assert said in refused(folder)


@pytest.mark.parametrize(
    "sizes", [{"num_hidden_layers": 10**9}, {"hidden_size": 9 * 10**6}, {"vocab_size": 10**10}]
)
def test_load__sizes_of_a_text_tower_are_bounded(
    hugging: Path, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    add(hugging / "config.json", **sizes)
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("built"))
    assert "could not be loaded" in refused(hugging)


def test_load__a_huge_unknown_tensor_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten gigabytes of a sparse file, which take a kilobyte on the disk."""
    path = folder / WEIGHTS
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    end = len(data) - 8 - length
    size = 10 * 2**30
    header["more"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [end, end + size]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    os.truncate(path, path.stat().st_size + size)
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_, **__: pytest.fail("read"))
    said = refused(folder)
    assert said.startswith(f"{path} could not be loaded: its tensors are far larger than the model")
    assert "'more' of shape [2684354560]" in said


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names on Windows")
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "tokenizer.json", "config.json", "more.json"])
def test_load__a_pipe_is_not_opened(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert refused(folder) == f"{folder / name} is not a regular file: remove it"
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert refused(folder) == f"{folder / name} is not a regular file: remove it"


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "tokenizer.json"])
def test_load__links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    said = refused(folder)
    assert said == f"{folder / name} is a link to {tmp_path / name}: copy that file into the folder"


def test_load__links_of_the_hubs_cache_are_taken(folder: Path, tmp_path: Path) -> None:
    """Its snapshots are links to the blobs beside them."""
    blobs = tmp_path / "models--o--n" / "blobs"
    snapshot = tmp_path / "models--o--n" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert Backbone.load(f"local-dir:{snapshot}").model_id == f"local-dir:{snapshot}"


def test_load__a_link_to_a_folder_is_taken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert Backbone.load(f"local-dir:{tmp_path / 'link'}").device == torch.device("cpu")


def test_load__a_configuration_of_a_gigabyte(folder: Path) -> None:
    os.truncate(folder / CONFIG, 2**30)
    assert "which no configuration has" in refused(folder)


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "no\0where", "\n", "\udc80", "//", "~~"])
def test_load__hostile_names_of_folders(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        Backbone.load(f"local-dir:{name}x")
    assert "is it a model folder?" in str(caught.value)
    assert len(str(caught.value)) < 400
