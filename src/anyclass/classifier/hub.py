"""Classifiers on the Hugging Face hub: safetensors, JSON and a card, and nothing else.

The token is found by huggingface_hub (`HF_TOKEN`, or `hf auth login`); it is never written here.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyclass.classifier.saving import TENSORS
from anyclass.classifier.settings import SETTINGS
from anyclass.errors import RequestError
from anyclass.files import read_json

HUB = "hf-hub:"
"""Prefix of a classifier on the hub, where a folder is expected."""

ENDPOINT = "HF_ENDPOINT"
"""Environment variable with the address of another hub; read at each call."""

CARD = "README.md"
"""Name of the model card."""

TAGS = ["anyclass", "image-classification", "clip"]


def download(name: str, revision: str | None = None) -> Path:
    """Folder with the files of a classifier, in the hub's cache.

    Args:
        name: `OWNER/NAME`.
        revision: branch, tag or commit; None: the main branch.

    Raises:
        RequestError: there is no such repository, revision or classifier in it, or the hub cannot
            be reached.
    """
    from huggingface_hub import hf_hub_download

    check_name(name)
    endpoint = os.environ.get(ENDPOINT)
    at = f" at revision {revision}" if revision else ""
    with _one_line(f"{name}{at} cannot be had from the hub"):
        settings = Path(hf_hub_download(name, SETTINGS, revision=revision, endpoint=endpoint))
        commit = settings.parent.name  # both files of the same commit
        hf_hub_download(name, TENSORS, revision=commit, endpoint=endpoint)
    return settings.parent


def upload(
    folder: Path, name: str, card: str, revision: str | None = None, private: bool = True
) -> dict[str, str]:
    """Upload a saved classifier.

    Args:
        folder: the folder of a saved classifier.
        name: `OWNER/NAME`, made if it does not exist.
        card: text of the model card, without metadata.
        revision: branch to commit to, made if it does not exist; None: the main branch.
        private: whether a new repository is private.

    Returns:
        `repository`, `url` and `commit`.

    Raises:
        RequestError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_name(name)
    contents: dict[str, Path | bytes] = {
        TENSORS: folder / TENSORS,
        SETTINGS: folder / SETTINGS,
        CARD: _with_metadata(card, folder, name).encode(),
    }
    files = [CommitOperationAdd(file, content) for file, content in contents.items()]
    api = HfApi(os.environ.get(ENDPOINT))
    with _one_line(f"{name} cannot be uploaded"):
        api.create_repo(name, private=private, exist_ok=True)
        if revision:
            api.create_branch(name, branch=revision, exist_ok=True)
        done = api.create_commit(
            name, files, commit_message="Upload a classifier of anyclass", revision=revision
        )
    return {"repository": name, "url": str(done.commit_url), "commit": str(done.oid)}


def check_name(name: str) -> None:
    """Refuse what is not `OWNER/NAME`.

    Raises:
        RequestError: it is not.
    """
    if not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name, re.ASCII):
        raise RequestError(f"{name!r:.100} is no repository of the hub: give OWNER/NAME")


def _with_metadata(card: str, folder: Path, name: str) -> str:
    """A card with the metadata that the hub reads, and how to load the classifier."""
    from huggingface_hub import ModelCardData

    model = str(read_json(folder / SETTINGS)["model"] or "")
    data = ModelCardData(
        library_name="anyclass",
        pipeline_tag="image-classification",
        tags=TAGS,
        base_model=model.removeprefix(HUB) if model.startswith(HUB) else None,
    )
    load = f'classifier = anyclass.Classifier.from_pretrained("{name}")\n'
    usage = f"## On the hub\n\n```python\nimport anyclass\n\n{load}```\n"
    return f"---\n{data.to_yaml()}\n---\n\n{card.rstrip()}\n\n{usage}"


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn an error of the hub into a line that says what to do."""
    from huggingface_hub import constants, errors

    of_client: Any = errors.HfHubHTTPError.__bases__[0]  # requests, httpx or httpx2, by version
    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise RequestError(f"{what}: HF_HUB_OFFLINE is set, so nothing is asked") from error
    except errors.RepositoryNotFoundError as error:
        raise RequestError(
            f"{what}: there is no such repository, or your token (HF_TOKEN, `hf auth login`) may "
            "not see it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise RequestError(f"{what}: there is no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise RequestError(
            f"{what}: it is not in the cache, and the hub cannot be reached"
        ) from error
    except errors.EntryNotFoundError as error:
        raise RequestError(f"{what}: it is no classifier of anyclass") from error
    except (of_client, OSError) as error:
        first = str(error).strip().partition("\n")[0][:200]
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            first = f"the hub refuses it. Log in with `hf auth login`, or check HF_TOKEN ({first})"
        elif status is None and isinstance(error, of_client):
            address = os.environ.get(ENDPOINT) or constants.ENDPOINT
            first = f"{address} cannot be reached ({first})"
        raise RequestError(f"{what}: {first}") from error
