"""Models of the hub without a network: what is missing is said at once, what is here is loaded."""

import re
import shlex
import sys
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
from huggingface_hub import constants
from open_clip import constants as names_of_files

from anyclass.backbone.hub import at_hand, needed_files, within_reach
from anyclass.backbone.loading import USUAL
from anyclass.backbone.recommended import RECOMMENDED
from anyclass.errors import ModelError

CLIP = "ViT-B-32/laion2b_s34b_b79k"
SIGLIP = "ViT-B-16-SigLIP2/webli"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub of our own, and an address where nobody answers."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def keep(cache: Path, repository: str, file: str) -> None:
    """A file as the hub's library leaves it in its cache."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True, exist_ok=True)
    (folder / "snapshots" / "abc" / file).write_text("x")


def test_within_reach__says_what_to_fetch_and_where_to_put_it(hub: Path) -> None:
    with pytest.raises(ModelError) as caught, within_reach(CLIP):
        pass
    said = str(caught.value)
    repository = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert said.startswith(f"{CLIP} is not on this machine, and http://127.0.0.1:9 cannot be reach")
    assert f"open_clip_model.safetensors or open_clip_pytorch_model.bin of {repository}" in said
    folder = repository.split("/")[1]
    assert f"`hf download {repository} --local-dir {folder}`" in said
    assert f"--model local-dir:{folder}" in said


def test_within_reach__a_tokenizer_of_another_repository_goes_into_the_same_folder(
    hub: Path,
) -> None:
    """open_clip looks for the tokenizer of `local-dir:` in the folder of the weights."""
    with pytest.raises(ModelError) as caught:
        within_reach("ViT-L-14-CLIPA/datacomp1b").__enter__()
    said = str(caught.value)
    weights = "UCSC-VLAA/ViT-L-14-CLIPA-datacomp1B"
    folder = weights.split("/")[1]
    first, second = re.findall("`(hf download .*?)`", said)
    assert first == f"hf download {weights} --local-dir {folder}"
    assert shlex.split(second)[:3] == ["hf", "download", "bert-base-uncased"]
    assert shlex.split(second)[-2:] == ["--local-dir", folder]
    kept = shlex.split(second)[4:-2:2]
    for name in ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "model.safetensors"):
        assert any(map(partial(fnmatch, name), kept)) == (name != "model.safetensors")
    with pytest.raises(ModelError) as caught:
        within_reach(SIGLIP).__enter__()
    assert str(caught.value).count("`hf download") == 1


def test_within_reach__a_repository_of_the_hub_is_refused_without_open_clip(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing it takes seconds, on a machine that has no such model."""
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModelError, match=r"It needs open_clip_config\.json of a/b"):
        within_reach("hf-hub:a/b").__enter__()


def test_needed_files__have_the_names_of_open_clip() -> None:
    weights = (names_of_files.HF_SAFE_WEIGHTS_NAME, names_of_files.HF_WEIGHTS_NAME)
    assert [file.names for file in needed_files("hf-hub:a/b@main")] == [
        (names_of_files.HF_CONFIG_NAME,),
        weights,
    ]
    assert needed_files(CLIP)[0].names == weights


def test_within_reach__only_what_is_missing_is_named(hub: Path) -> None:
    keep(hub, "timm/ViT-B-16-SigLIP2", "open_clip_model.safetensors")
    assert not at_hand(SIGLIP)
    with pytest.raises(ModelError, match=r"It needs tokenizer\.json or tokenizer_config\.json of"):
        within_reach(SIGLIP).__enter__()


def test_within_reach__what_is_here_is_loaded_without_retries(hub: Path) -> None:
    keep(hub, "timm/ViT-B-16-SigLIP2", "open_clip_model.safetensors")
    keep(hub, "timm/ViT-B-16-SigLIP2", "tokenizer.json")
    assert at_hand(SIGLIP)
    with within_reach(SIGLIP):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(("status", "words"), [(401, "gives you no repository"), (200, "")])
def test_within_reach__asks_the_hub_once(
    hub: Path, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    asked = []

    class Session:
        def head(self, address: str, headers: dict[str, str], timeout: float) -> Any:
            asked.append(address)
            return type("Answer", (), {"status_code": status})

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    if words:
        with pytest.raises(ModelError, match=words):
            within_reach("hf-hub:a/b").__enter__()
    else:
        with within_reach("hf-hub:a/b"):
            assert not constants.HF_HUB_OFFLINE
    assert asked == ["http://127.0.0.1:9/a/b/resolve/main/open_clip_config.json"]


def test_recommended__names_are_known_to_open_clip() -> None:
    names = {f"{name}/{tag}" for name, tag in open_clip.list_pretrained()}
    for model in (*(choice.model for choice in RECOMMENDED), *USUAL.values()):
        assert model in names or model == "starter" or model.startswith("hf-hub:imageomics/")
        assert bool(needed_files(model)) == (model != "starter")


@pytest.mark.slow
@pytest.mark.parametrize("choice", RECOMMENDED[1:4], ids=lambda choice: choice.model)
def test_recommended__sizes_are_those_of_open_clip(choice: Any) -> None:
    name = choice.model.rpartition("/")[0]
    clip = open_clip.create_model(name, device="meta", load_weights=False)
    parameters = sum(weight.numel() for weight in clip.parameters())
    assert round(parameters / 1e6) == choice.parameters
