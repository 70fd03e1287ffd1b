"""From a model's name to an open_clip model and its tokenizer."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from anyclass.backbone.hub import within_reach
from anyclass.backbone.model_folder import (
    CONFIG,
    check_code,
    check_files,
    check_finite,
    check_fits,
    check_sizes,
    check_weights,
    count_values,
    read_config,
    weights_file,
)
from anyclass.backbone.model_metadata import ModelMetadata, metadata_of
from anyclass.backbone.transformers_names import open_clip_name
from anyclass.errors import ModelError, RequestError

STARTER = "starter"
"""Name of the embedded default model."""


def load_model(model_id: str, allow_pickle: bool = False) -> tuple[Any, Any]:
    """Load an open_clip model and its tokenizer.

    Args:
        model_id: `NAME/TAG` of open_clip, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
        allow_pickle: accept weights of a local folder that are not safetensors.

    Raises:
        RequestError: the name is not known.
        ModelError: weights are missing, damaged or refused.
    """
    if same := open_clip_name(model_id):
        raise RequestError(
            f"{model_id} is in the format of transformers: write --model {same}, "
            "open_clip's name of the same model"
        )
    if model_id.startswith("local-dir:"):
        weights = _checked(model_id, _folder(model_id), allow_pickle)
        return _create(model_id, model_id, None, weights)
    if model_id.startswith("hf-hub:"):
        with within_reach(model_id):
            return _create(model_id, model_id, None)
    name, tag = _name_and_tag(model_id)
    with within_reach(model_id):
        return _create(model_id, name, tag)


def cached_metadata(model_id: str, allow_pickle: bool = False) -> ModelMetadata:
    """Metadata of a model in a folder, cached on disk; nothing is kept of other models.

    Raises:
        RequestError: the folder is not named.
        ModelError: a file is not a regular one, or is refused.
    """
    folder = _folder(model_id) if model_id.startswith("local-dir:") else None
    if folder is None or not os.path.isfile(folder / CONFIG):  # noqa: PTH113 (never raises)
        return ModelMetadata()
    check_files(folder)
    text = _text_tower(read_config(folder / CONFIG))
    return metadata_of(folder, allow_pickle) if text in (None, str(folder)) else ModelMetadata()


def _text_tower(config: Any) -> Any:
    """Name or folder of a text tower of Hugging Face; None if there is none."""
    for key in ("model_cfg", "text_cfg"):
        config = config.get(key) if isinstance(config, dict) else None
    return config.get("hf_model_name") if isinstance(config, dict) else None


def located(model_id: str) -> str:
    """The name to load a model by: that of the starter is its folder, which is built if needed.

    Raises:
        RequestError: the packages of the starter are not installed, or no folder is named.
    """
    if model_id != STARTER:
        return absolute_id(model_id)
    from anyclass.backbone.starter import starter_folder

    return f"local-dir:{starter_folder()}"


def absolute_id(model_id: str) -> str:
    """The name of a model, where a relative `local-dir:` becomes an absolute one."""
    if not model_id.startswith("local-dir:"):
        return model_id
    return f"local-dir:{_folder(model_id)}"


def _folder(model_id: str) -> Path:
    """Folder of a `local-dir:` name, absolute.

    Raises:
        RequestError: it names none.
    """
    name = model_id.removeprefix("local-dir:")
    if not name.strip():
        raise RequestError("local-dir: needs the folder of a model, as in local-dir:models/clip")
    name = os.path.expanduser(name)  # noqa: PTH111 (never raises)
    return Path(os.path.abspath(name))  # noqa: PTH100 (links stay links)


def _name_and_tag(model_id: str) -> tuple[str, str]:
    """Split `NAME/TAG` and check both against open_clip's lists."""
    import open_clip

    name, _, tag = model_id.rpartition("/") if "/" in model_id else (model_id, "", "")
    if name not in open_clip.list_models():
        raise RequestError(
            f"no model is called {model_id!r}: use starter, an open_clip name such as "
            "ViT-B-32/laion2b_s34b_b79k, hf-hub:OWNER/NAME or local-dir:FOLDER "
            f"(`anyclass models` shows some, --all lists them){_suggestion(model_id)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise RequestError(f"no weights of {name} are published: use local-dir:FOLDER for your own")
    if tag not in tags:
        near = get_close_matches(tag, tags, n=3, cutoff=0.4)
        first = [*near, *(known for known in tags if known not in near)]
        shown = ", ".join(f"{name}/{known}" for known in first[:6])
        more = f" and {len(tags) - 6} more" if len(tags) > 6 else ""
        raise RequestError(f"{name} needs one of its weights: {shown}{more}")
    return name, tag


USUAL = {
    "clip": "ViT-B-32/laion2b_s34b_b79k",
    "bioclip": "hf-hub:imageomics/bioclip",
    "bioclip-2": "hf-hub:imageomics/bioclip-2",
    "siglip": "ViT-B-16-SigLIP/webli",
    "siglip2": "ViT-B-16-SigLIP2/webli",
    "siglip-2": "ViT-B-16-SigLIP2/webli",
}
"""Common name of a model -> a model of that kind."""


def _suggestion(model_id: str) -> str:
    """The most similar known name, for the message about an unknown one."""
    import open_clip

    owner, _, name = model_id.partition("/")
    if owner == "google" and name.startswith("siglip"):
        return f". open_clip has SigLIP as {USUAL['siglip']}, SigLIP 2 as {USUAL['siglip2']}"
    names = [f"{name}/{tag}" for name, tag in open_clip.list_pretrained()]
    known = {word.lower(): word for word in [STARTER, *names]} | USUAL
    near = get_close_matches(model_id.lower(), known, n=1, cutoff=0.75)
    if near:
        return f". Did you mean {known[near[0]]}?"
    of_hub = owner and name and "/" not in name and owner not in open_clip.list_models()
    return f". For a repository of the hub write hf-hub:{model_id}" if of_hub else ""


def _checked(model_id: str, folder: Path, allow_pickle: bool) -> Path:
    """The weights of a folder, after all checks that need no model.

    Raises:
        ModelError: it is no model, or is refused.
    """
    if not os.path.isdir(folder) or not os.path.lexists(folder / CONFIG):  # noqa: PTH110, PTH112
        raise ModelError(f"{str(folder)[:200]} holds no {CONFIG}; {_what_it_is(folder)}")
    check_files(folder)
    whole = read_config(folder / CONFIG)
    config = whole.get("model_cfg") if isinstance(whole, dict) else None
    if not isinstance(config, dict):
        raise ModelError(f"{model_id} could not be loaded: {CONFIG} has no model_cfg")
    check_sizes(model_id, config)
    weights = weights_file(folder, allow_pickle)
    check_fits(model_id, config, _text_config(model_id, config["text_cfg"]), count_values(weights))
    return weights


def _what_it_is(folder: Path) -> str:
    """What a folder without a configuration of open_clip may be, and what to do."""
    if not os.path.lexists(folder / "config.json"):  # noqa: PTH110 (never raises)
        return "is it a model folder?"
    return (
        "its config.json is of a model in the format of transformers: give a folder of open_clip, "
        "or the name of that model in open_clip (`anyclass models --all`)"
    )


def _text_config(model_id: str, text: Any) -> Any:
    """`config.json` of a text tower of Hugging Face that lies in a folder, checked."""
    folder = Path(str(text.get("hf_model_name", "")))
    if "hf_model_name" not in text or not os.path.isdir(folder):  # noqa: PTH112 (never raises)
        return None
    check_files(folder)
    config = read_config(folder / "config.json")
    check_sizes(model_id, {"text_cfg": config, "vision_cfg": {}})
    return config


def _create(
    model_id: str, name: str, tag: str | None, weights: Path | None = None
) -> tuple[Any, Any]:
    """Let open_clip build the model; a failure becomes a ModelError that says what to do.

    Args:
        model_id: name of the model.
        name: open_clip's name of it.
        tag: open_clip's name of its weights.
        weights: the file to load weights from instead; open_clip might find another one.
    """
    import open_clip

    try:
        with warnings.catch_warnings(), _no_questions():
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            config = open_clip.get_model_config(name)
            check_code(model_id, config)
            check_sizes(model_id, config)
            if weights is None:
                model = open_clip.create_model(name, pretrained=tag, require_pretrained=True)
            else:
                model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
                check_weights(weights, model.state_dict())
                open_clip.load_checkpoint(model, str(weights))
            check_finite(model_id, model.state_dict())
            options = {"trust_remote_code": False} if _of_hugging_face(config) else {}
            return model, open_clip.get_tokenizer(name, **options)
    except ModelError:
        raise
    except UserWarning as wrong:
        raise ModelError(
            f"{model_id}: these weights need another activation; use the -quickgelu name"
        ) from wrong
    except Exception as wrong:  # a damaged or hostile folder fails anywhere in these libraries
        raise ModelError(
            f"{model_id} could not be loaded: {_first_line(wrong)}. Weights come from the hub once "
            "and stay in its cache; without a network, fetch them on another machine and use "
            "local-dir:FOLDER"
        ) from wrong


def _of_hugging_face(config: Any) -> bool:
    """Whether the tokenizer is one of Hugging Face."""
    return bool(config["text_cfg"].get("hf_tokenizer_name"))


@contextmanager
def _no_questions() -> Iterator[None]:
    """Let transformers refuse code of a model instead of asking for it; silence open_clip's log."""
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE, logging.root.manager.disable
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before[0]
        logging.disable(before[1])


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
