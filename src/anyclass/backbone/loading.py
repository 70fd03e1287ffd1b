"""From a model's name to an open_clip model and its tokenizer."""

import warnings
from pathlib import Path
from typing import Any

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
        _check_folder(Path(model_id.removeprefix("local-dir:")), allow_pickle)
        return _create(model_id, model_id, None)
    if model_id.startswith("hf-hub:"):
        return _create(model_id, model_id, None)
    return _create(model_id, *_name_and_tag(model_id))


def _name_and_tag(model_id: str) -> tuple[str, str]:
    """Split `NAME/TAG` and check both against open_clip's lists."""
    import open_clip

    name, _, tag = model_id.rpartition("/") if "/" in model_id else (model_id, "", "")
    if name not in open_clip.list_models():
        raise RequestError(
            f"no model is called {model_id!r}: use starter, an open_clip name such as "
            "ViT-B-32/laion2b_s34b_b79k, hf-hub:OWNER/NAME or local-dir:FOLDER "
            "(`anyclass models` lists them)"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise RequestError(f"no weights of {name} are published: use local-dir:FOLDER for your own")
    if tag not in tags:
        raise RequestError(
            f"{name} needs one of its weights: {', '.join(f'{name}/{known}' for known in tags)}"
        )
    return name, tag


def _check_folder(folder: Path, allow_pickle: bool) -> None:
    if not (folder / "open_clip_config.json").is_file():
        raise ModelError(f"{folder} holds no open_clip_config.json; is it a model folder?")
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
