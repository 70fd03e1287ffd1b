"""From a name to a model: what loads, and what is said of everything that does not."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyclass.backbone import Backbone
from anyclass.backbone.loading import absolute_id
from anyclass.errors import ModelError, RequestError

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def folder(tiny_clip: Callable[..., str], tmp_path: Path) -> Path:
    """A copy of the causal model, to be damaged."""
    return copied(tiny_clip("causal"), tmp_path)


def copied(model_id: str, tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(model_id.removeprefix("local-dir:"), target)
    return target


def change(folder: Path, **keys: Any) -> None:
    """Other values in the `model_cfg` of a folder."""
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"] |= keys
    path.write_text(json.dumps(config))


def text_config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"])


def refused(model_id: str | Path, error: type[Exception] = ModelError, **options: Any) -> str:
    """What is said of a model that cannot be loaded; always short."""
    name = f"local-dir:{model_id}" if isinstance(model_id, Path) else model_id
    with pytest.raises(error) as caught:
        Backbone.load(name, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_load__a_folder(folder: Path) -> None:
    clip = Backbone.load(f"local-dir:{folder}", engine="torch")
    assert clip.model_id == f"local-dir:{folder}"
    assert clip.engine == "torch"
    assert clip.device == torch.device("cpu")
    assert clip.preprocessing.to_json() == {
        "size": [48, 48],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill": 0,
    }
    saved = load_file(folder / WEIGHTS)
    assert torch.equal(clip.model.state_dict()["visual.conv1.weight"], saved["visual.conv1.weight"])
    assert not any(module.training for module in clip.model.modules())


def test_load__an_open_clip_name_and_tag(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    create, asked = open_clip.create_model, []

    def instead(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return create(f"local-dir:{folder}")

    monkeypatch.setattr(open_clip, "create_model", instead)
    monkeypatch.setattr("anyclass.backbone.loading.within_reach", nullcontext)
    clip = Backbone.load("ViT-B-32/laion2b_s34b_b79k")
    wanted = {"pretrained": "laion2b_s34b_b79k", "require_pretrained": True}
    assert asked == [("ViT-B-32", wanted)]
    assert clip._open.tokenizer.vocab_size == 49408


@pytest.mark.parametrize("name", ["ViT-B-33/openai", "best", "", "starter/1", "../model"])
def test_load__an_unknown_name(name: str) -> None:
    said = refused(name, RequestError)
    assert said.startswith(f"no model is called {name!r}: use starter, an open_clip name such as")
    assert "hf-hub:OWNER/NAME or local-dir:FOLDER" in said


@pytest.mark.parametrize("name", ["RN101", "RN101/laion2b_s34b_b79k"])
def test_load__a_tag_that_is_missing_or_of_another_model(name: str) -> None:
    said = refused(name, RequestError)
    assert said.startswith("RN101 needs one of its weights: RN101/openai, RN101/yfcc15m")


def test_load__a_name_without_published_weights() -> None:
    said = refused("RN50x4-nothing", RequestError)
    assert "no model is called" in said
    said = refused("ViT-S-32", RequestError)
    assert said == "no weights of ViT-S-32 are published: use local-dir:FOLDER for your own"


def test_load__a_folder_that_is_none(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert refused(nowhere) == f"{nowhere} holds no open_clip_config.json; is it a model folder?"
    assert "holds no open_clip_config.json" in refused(tmp_path)


@pytest.mark.parametrize("ending", ["bin", "pth", "pt"])
def test_load__pickled_weights_are_refused(folder: Path, ending: str) -> None:
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / f"open_clip_pytorch_model.{ending}")
    said = refused(folder)
    assert said.startswith(f"{folder} holds no *.safetensors weights; pickled weights can run code")
    assert "--allow-pickle" in said


@pytest.mark.parametrize("ending", ["bin", "pth"])
def test_load__pickled_weights_on_demand(folder: Path, ending: str) -> None:
    wanted = Backbone.load(f"local-dir:{folder}").weights_sha256
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / f"open_clip_pytorch_model.{ending}")
    clip = Backbone.load(f"local-dir:{folder}", allow_pickle=True)
    assert clip.weights_sha256 == wanted


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.sentinel,))


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_load__code_in_weights_is_never_run(folder: Path, ending: str) -> None:
    (folder / WEIGHTS).unlink()
    sentinel = folder / "ran"
    torch.save({"visual.proj": Payload(sentinel)}, folder / f"open_clip_model.{ending}")
    assert "could not be loaded" in refused(folder, allow_pickle=True)
    assert not sentinel.exists()


def test_load__code_of_a_tokenizer_is_never_run(folder: Path) -> None:
    sentinel = folder / "ran"
    (folder / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PreTrainedTokenizerFast\n"
        f"Path({str(sentinel)!r}).touch()\n"
        "class Own(PreTrainedTokenizerFast):\n    pass\n"
    )
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    change(folder, text_cfg=text_config(folder) | {"tokenizer_kwargs": {"trust_remote_code": True}})
    said = refused(folder)
    assert said.endswith(
        "open_clip_config.json wants to run code of its own (trust_remote_code): refused"
    )
    assert not sentinel.exists()


@pytest.mark.parametrize("size", [0, 5, 200, 20_000, -1])
def test_load__truncated_weights(folder: Path, size: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    assert refused(folder).startswith(f"{path} could not be loaded: Error while deserializing")


def test_load__a_header_of_absurd_length(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes((2**63).to_bytes(8, "little") + data[8:])
    assert "could not be loaded" in refused(folder)


@pytest.mark.parametrize("name", ["visual.conv1.weight", "ln_final.bias"])
def test_load__weights_of_another_shape_or_none(folder: Path, name: str) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {name: torch.zeros(3, 2)}, folder / WEIGHTS)
    assert "could not be loaded: Error(s) in loading state_dict" in refused(folder)
    save_file({key: value for key, value in weights.items() if key != name}, folder / WEIGHTS)
    assert "could not be loaded: Error(s) in loading state_dict" in refused(folder)


@pytest.mark.parametrize(
    "keys",
    [
        {"embed_dim": "wide"},
        {"vision_cfg": {"layers": 3, "wings": 2}},
        {"vision_cfg": None},
        {"text_cfg": None},
        {"text_cfg": {"width": 41, "heads": 4}},
        {"wings": 2},
        {"vision_cfg": {"timm_model_name": "no_such_tower", "image_size": 48}},
    ],
)
def test_load__a_damaged_configuration(folder: Path, keys: dict[str, Any]) -> None:
    change(folder, **keys)
    assert refused(folder).startswith(f"local-dir:{folder} could not be loaded: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"model_cfg": 3}', "\x00"])
def test_load__a_configuration_that_is_none(folder: Path, text: str) -> None:
    (folder / "open_clip_config.json").write_text(text)
    assert "could not be loaded" in refused(folder)


def test_load__preprocessing_that_is_damaged(folder: Path) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"]["mean"] = [0.5, 0.4]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="preprocessing is damaged"):
        Backbone.load(f"local-dir:{folder}")


def test_load__weights_for_another_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    import open_clip

    def mismatch(name: str, **_: Any) -> None:
        warnings.warn(f"QuickGELU mismatch between {name} and its weights", stacklevel=1)

    monkeypatch.setattr(open_clip, "create_model", mismatch)
    monkeypatch.setattr("anyclass.backbone.loading.within_reach", nullcontext)
    said = refused("ViT-B-32/openai")
    assert said == "ViT-B-32/openai: these weights need another activation; use the -quickgelu name"


def test_load__a_hub_that_cannot_be_reached() -> None:
    said = refused("hf-hub:anyclass/no-such-model")
    assert said.startswith("hf-hub:anyclass/no-such-model is not on this machine, and HF_HUB_OFF")
    assert "`hf download anyclass/no-such-model --local-dir no-such-model`" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bioclip", "Did you mean hf-hub:imageomics/bioclip?"),
        ("ViT-B-32/laion2b_s34b_b79", "needs one of its weights: ViT-B-32/laion2b_s34b_b79k, "),
        ("vit-b-16/datacomp_xl_s13b_b90k", "Did you mean ViT-B-16/datacomp_xl_s13b_b90k?"),
        ("imageomics/bioclip-2", "write hf-hub:imageomics/bioclip-2"),
        ("google/siglip2-base-patch16-224", "write --model ViT-B-16-SigLIP2/webli, open_clip's"),
        ("hf-hub:openai/clip-vit-base-patch32", "write --model ViT-B-32-quickgelu/openai"),
        ("google/siglip2-base-patch16-naflex", "SigLIP 2 as ViT-B-16-SigLIP2/webli"),
    ],
)
def test_load__a_name_that_is_almost_one(name: str, words: str) -> None:
    assert words in refused(name, RequestError)


def test_load__a_folder_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    assert "in the format of transformers" in refused(f"local-dir:{tmp_path}")


def test_load__a_relative_folder_becomes_absolute(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert Backbone.load(f"local-dir:{folder.name}").model_id == f"local-dir:{folder}"
    assert absolute_id("starter") == "starter"


@pytest.mark.parametrize("name", ["local-dir:", "local-dir:  "])
def test_load__a_folder_without_a_name(name: str) -> None:
    assert "needs the folder of a model" in refused(name, RequestError)


def test_load__a_name_that_is_too_long() -> None:
    said = refused("local-dir:" + 3000 * "x")
    assert said.endswith("holds no open_clip_config.json; is it a model folder?")
    assert len(said) < 300
