"""From a model's name to an open_clip model and its tokenizer."""

import os
import warnings
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from anyclass.backbone.hub import within_reach
from anyclass.errors import ModelError, RequestError

STARTER = "starter"
"""Name of the embedded default model."""


def load_model(model_id: str, allow_pickle: bool = False) -> tuple[Any, Any]:
    """Load an open_clip model and its tokenizer.

    Args:
        model_id: `starter`, `NAME/TAG` of open_clip, `hf-hub:OWNER/NAME` or `local-dir:FOLDER`.
        allow_pickle: accept weights of a local folder that are not safetensors.

    Raises:
        RequestError: the name is not known.
        ModelError: weights are missing, damaged or refused.
    """
    if model_id == STARTER:
        from anyclass.backbone.starter import starter_folder

        model_id = f"local-dir:{starter_folder()}"
    if model_id.startswith("local-dir:"):
        model_id = absolute_id(model_id)
        _check_folder(_folder(model_id), allow_pickle)
        return _create(model_id, model_id, None)
    if model_id.startswith("hf-hub:"):
        with within_reach(model_id):
            return _create(model_id, model_id, None)
    name, tag = _name_and_tag(model_id)
    with within_reach(model_id):
        return _create(model_id, name, tag)


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
    return Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100 (links stay links)


def _name_and_tag(model_id: str) -> tuple[str, str]:
    """Split `NAME/TAG` and check both against open_clip's lists."""
    import open_clip

    name, _, tag = model_id.rpartition("/") if "/" in model_id else (model_id, "", "")
    if name not in open_clip.list_models():
        raise RequestError(
            f"no model is called {model_id!r}: use starter, an open_clip name such as "
            "ViT-B-32/laion2b_s34b_b79k, hf-hub:OWNER/NAME or local-dir:FOLDER "
            f"(`anyclass models` shows some, --all lists them){_perhaps(model_id)}"
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
"""What people call a model -> a model of that kind."""


def _perhaps(model_id: str) -> str:
    """A guess at what was meant by the name of a model that there is not."""
    import open_clip

    owner, _, name = model_id.partition("/")
    if owner == "google" and name.startswith("siglip"):
        return f". SigLIP is {USUAL['siglip']}, SigLIP 2 is {USUAL['siglip2']}"
    names = [f"{name}/{tag}" for name, tag in open_clip.list_pretrained()]
    known = {word.lower(): word for word in [STARTER, *names]} | USUAL
    near = get_close_matches(model_id.lower(), known, n=1, cutoff=0.75)
    if near:
        return f". Did you mean {known[near[0]]}?"
    of_hub = owner and name and "/" not in name and owner not in open_clip.list_models()
    return f". For a repository of the hub write hf-hub:{model_id}" if of_hub else ""


def _check_folder(folder: Path, allow_pickle: bool) -> None:
    if not os.path.isfile(folder / "open_clip_config.json"):  # noqa: PTH113 (never raises)
        raise ModelError(
            f"{str(folder)[:200]} holds no open_clip_config.json; is it a model folder?"
        )
    if not allow_pickle and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds no *.safetensors weights; pickled weights can run code: "
            "convert them, or say --allow-pickle if you trust their source"
        )


def _create(model_id: str, name: str, tag: str | None) -> tuple[Any, Any]:
    """Let open_clip build the model; a failure becomes a ModelError that says what to do."""
    import open_clip

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            _check_tokenizer(model_id, open_clip.get_model_config(name))
            model = open_clip.create_model(name, pretrained=tag, require_pretrained=True)
        return model, open_clip.get_tokenizer(name)
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


def _check_tokenizer(model_id: str, config: Any) -> None:
    """A model's configuration must not ask that code from its folder be run."""
    if config["text_cfg"].get("tokenizer_kwargs", {}).get("trust_remote_code"):
        raise ModelError(f"{model_id} wants to run code of its own (trust_remote_code): refused")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
