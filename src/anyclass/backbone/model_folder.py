"""Checks of a model from somebody else, before any library reads its files.

1. every file is a regular one, and no link leads out of the folder
2. no configuration asks that code of its own be run
3. every size is within limits, and no larger than the weights can fill
4. the weights are the safetensors that are then loaded
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyclass.errors import ModelError

CONFIG = "open_clip_config.json"
"""Name of open_clip's configuration in a folder."""

PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names that open_clip gives to weights; other ones come after these."""

MOST_LAYERS = 1000
"""Maximum number of layers of a tower; the largest published ones have fewer than 100."""

MOST_PLACES = 10_000
"""Longest context, side of an image, number of heads or queries."""

MOST = 10**7
"""Largest of the other sizes: the words of a vocabulary."""

SPARE = 10**7
"""Numbers by which a model may exceed its weights, or they the model."""

DECODER = "text_decoder."
"""Beginning of the names in CoCa's decoder; open_clip leaves some of its weights to chance."""

_BYTES = 32 * 2**20
_WORDS = {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"}
_CODE = {"auto_map", "trust_remote_code", "custom_pipelines"}
_PLACES = {"context_length", "image_size", "heads", "attn_pooler_heads", "attn_pooler_queries"}


def check_files(folder: Path) -> None:
    """Steps 1 and 2 for all files of a folder.

    Raises:
        ModelError: a file is not a regular one, lies elsewhere, is damaged, or asks for code.
    """
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            continue
        if not path.is_file():
            raise ModelError(f"{path} is not a regular file: remove it")
        if path.is_symlink() and not _is_own(path, folder):
            raise ModelError(
                f"{path} is a link to {path.resolve()}: copy that file into the folder"
            )
        if path.suffix == ".json" and path.name not in _WORDS:
            check_code(str(path), read_config(path))


def read_config(path: Path) -> Any:
    """Read a JSON file of a model.

    Raises:
        ModelError: it is missing, not a regular file, damaged or absurdly large.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing, or not a regular file")
    if path.stat().st_size > _BYTES:
        raise ModelError(f"{path} has more than {_BYTES} bytes, which no configuration has")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} could not be loaded: {error!s:.200}") from error


def check_code(name: str, config: Any) -> None:
    """Step 2 for the content of one file, or the configuration of a model.

    Raises:
        ModelError: it asks that code be run.
    """
    for key, value in _entries(config):
        if key in _CODE and value:
            raise ModelError(f"{name} wants to run code of its own ({key}): refused")


def check_sizes(name: str, config: Any) -> None:
    """Step 3 without the weights: each size alone.

    Raises:
        ModelError: the configuration has no towers, or a size is out of bounds.
    """
    towers = [config, *(config.get(key) for key in ("vision_cfg", "text_cfg"))]
    if not all(isinstance(part, dict) for part in towers):
        raise ModelError(f"{name} could not be loaded: it has no vision_cfg and text_cfg")
    for key, value in _entries(config):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not _within_limits(key, number):
                raise ModelError(f"{name} could not be loaded: {key} is {number}, out of bounds")
    tower = config["vision_cfg"].get("timm_model_name")
    if tower is not None and not _is_timm(tower):
        raise ModelError(f"{name} could not be loaded: timm has no model {tower!r:.100}")


def check_fits(name: str, config: Mapping[str, Any], text: Any, values: int) -> None:
    """Step 3 with the weights: the model must not be much larger than these.

    Args:
        name: name of the model.
        config: its `model_cfg`, with sizes that were checked.
        text: content of `config.json`, if there is a text tower of Hugging Face.
        values: upper bound on the numbers in the weights.

    Raises:
        ModelError: it is much larger.
    """
    try:
        towers = [config[key] for key in config if key.endswith("_cfg")]
        wanted = sum(map(_tower, towers)) + _hugging_face_tower(text)
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise ModelError(f"{name} could not be loaded: a size is no number ({error})") from error
    if wanted > 2 * values + SPARE:
        raise ModelError(
            f"{name} could not be loaded: its configuration describes {wanted:.1e} numbers and its "
            f"weights hold {values:.1e}"
        )


def weights_file(folder: Path, allow_pickle: bool) -> Path:
    """Step 4: the file of a folder to load weights from.

    Args:
        folder: the folder.
        allow_pickle: whether it may be a `.bin` or `.pth`, if there are no safetensors.

    Raises:
        ModelError: there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = [path for path in files if path.suffix == ".safetensors"]
    if not found and allow_pickle:
        found = [path for path in files if path.suffix in (".bin", ".pth")]
    if not found:
        raise ModelError(
            f"{folder} holds no *.safetensors weights; pickled weights can run code: "
            "convert them, or say --allow-pickle if you trust their source"
        )
    return min(found, key=lambda path: _rank(path, PREFERRED))


def count_values(path: Path) -> int:
    """Numbers in weights, by the header of safetensors; at most one per byte of another file.

    Raises:
        ModelError: the header is damaged or does not fit the length of the file.
    """
    if path.suffix != ".safetensors":
        return path.stat().st_size
    return sum(size for _, size in _header(path).values())


def check_weights(path: Path, state: Mapping[str, Any]) -> None:
    """Compare the header of safetensors with a model that is built, before a tensor is read.

    Args:
        path: the weights.
        state: the tensors of the model by name.

    Raises:
        ModelError: the weights hold far more than the model.
    """
    if path.suffix != ".safetensors":
        return
    header = _header(path)
    most = 2 * sum(tensor.numel() for tensor in state.values()) + SPARE
    if sum(size for _, size in header.values()) > most:
        unknown = next((name for name in header if name not in state), min(header))
        raise ModelError(
            f"{path} could not be loaded: its tensors are far larger than the model, "
            f"as {unknown!r:.100} of shape {header[unknown][0]!s:.60}"
        )


def check_finite(name: str, state: Mapping[str, Any]) -> None:
    """Refuse weights that are not numbers, but in the decoder of captions, which nobody runs.

    Raises:
        ModelError: a tensor holds NaN or infinity.
    """
    for key, tensor in state.items():
        if key.startswith(DECODER):
            continue
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{name} has damaged weights: {key} holds NaN or infinity")


def _header(path: Path) -> dict[str, tuple[Sequence[int], int]]:
    """Shape and number of values of each tensor; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} could not be loaded: {error!s:.200}") from error
    return {name: (shape, _product(shape)) for name, shape in shapes.items()}


def _product(lengths: Sequence[int]) -> int:
    size = 1
    for length in lengths:
        size *= length
    return size


def _is_own(path: Path, folder: Path) -> bool:
    """Whether a link stays in its folder, or in the cache of the hub that the folder belongs to."""
    real = path.resolve()
    home = folder.resolve()
    of_hub = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    return of_hub or real.is_relative_to(home)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of nested objects with their values."""
    stack = [value]
    while stack:
        inside = stack.pop()
        if isinstance(inside, dict):
            yield from inside.items()
            stack += inside.values()
        elif isinstance(inside, list):
            stack += inside


def _within_limits(key: str, number: int | float) -> bool:
    """Whether a size at a key is within limits."""
    if "layers" in key or key in ("n_layer", "depth"):
        return 0 <= number <= MOST_LAYERS
    return abs(number) <= (MOST_PLACES if key in _PLACES else MOST)


def _rank(path: Path, names: Sequence[str]) -> tuple[int, str]:
    return names.index(path.name) if path.name in names else len(names), path.name


def _is_timm(name: Any) -> bool:
    """Whether timm builds a model of this name itself: no folder, and nothing from the hub."""
    import timm

    return isinstance(name, str) and os.sep not in name and ":" not in name and timm.is_model(name)


def _tower(config: Any) -> float:
    """Minimum number of parameters of a tower of open_clip."""
    if not isinstance(config, dict) or "timm_model_name" in config or "hf_model_name" in config:
        return 0.0
    width = float(config.get("width") or 0)
    layers = config.get("layers") or 0
    if isinstance(layers, list):
        return float(sum(layers)) * width**2
    blocks = (4 + 2 * float(config.get("mlp_ratio") or 4)) * layers * width**2
    places = float(config.get("context_length") or 0) + float(config.get("vocab_size") or 0)
    patch = float(config.get("patch_size") or 0)
    return blocks + places * width + 3 * patch**2 * width


def _hugging_face_tower(config: Any) -> float:
    """Minimum number of parameters of a text tower of Hugging Face."""
    if not isinstance(config, dict):
        return 0.0

    def size(*names: str) -> float:
        return next((float(config[name]) for name in names if config.get(name)), 0.0)

    width = size("hidden_size", "d_model")
    inner = size("intermediate_size", "d_ff", "encoder_ffn_dim")
    layers = size("num_hidden_layers", "num_layers", "encoder_layers")
    words = size("vocab_size") + size("max_position_embeddings")
    return layers * (4 * width**2 + 2 * width * inner) + words * width
