"""Models of the hub: whether the files are on this machine, and what to do where they are not.

Everything is known before a library begins to download, so a machine without a network answers in
seconds, not after retries.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from anyclass.errors import ModelError

SECONDS = 5.0
"""Longest wait for the hub's first answer."""

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_TEXT_FILES = "--include '*.json' --include '*.txt' --include '*.model'"
"""Options of `hf download` for the files of a tokenizer, without the weights beside them."""
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names that open_clip gives to files on the hub, without loading open_clip."""


class Needed(NamedTuple):
    """One file that a model needs."""

    repository: str
    """OWNER/NAME on the hub."""
    names: tuple[str, ...]
    """Names of the file: any one of them will do."""

    @property
    def here(self) -> bool:
        """Whether the file is in the cache of the hub on this machine."""
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(self.repository, name) for name in self.names)
        return any(isinstance(path, str) for path in found)


def needed_files(model_id: str) -> list[Needed]:
    """Files on the hub that a model needs; none for a folder, the starter and other sources.

    Args:
        model_id: `NAME/TAG` of open_clip or `hf-hub:OWNER/NAME`.
    """
    if model_id.startswith("hf-hub:"):
        repository = model_id.removeprefix("hf-hub:").partition("@")[0]
        return [Needed(repository, (_CONFIG,)), Needed(repository, _WEIGHTS)]
    import open_clip  # takes seconds

    name, _, tag = model_id.rpartition("/")
    source = (open_clip.get_pretrained_cfg(name, tag) or {}).get("hf_hub", "")
    if not name or not source:
        return []
    repository, _, file = source.rpartition("/")
    found = [Needed(repository, (file,) if file else _WEIGHTS)]
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    if text.get("hf_tokenizer_name"):
        found.append(Needed(text["hf_tokenizer_name"], _TOKENIZER))
    return found


def at_hand(model_id: str) -> bool:
    """Whether a model can be loaded without a network."""
    if model_id == "starter" or model_id.startswith("local-dir:"):
        return True
    files = needed_files(model_id)
    return bool(files) and all(file.here for file in files)


@contextmanager
def within_reach(model_id: str) -> Iterator[None]:
    """Ask the hub once; without an answer its libraries are told to use what is on the disk.

    Raises:
        ModelError: files are missing and the hub gives none; the message says what to fetch.
    """
    from huggingface_hub import constants

    files = needed_files(model_id)
    problem = _problem(files[0].repository) if files else None
    if problem is None:
        yield
        return
    if not all(file.here for file in files):
        raise ModelError(_what_to_fetch(model_id, files, problem))
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True  # no retries for files that are here
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _problem(repository: str) -> str | None:
    """Why the hub gives no file of a repository; None if it does."""
    import warnings

    from huggingface_hub import constants, get_session, get_token

    address = f"{constants.ENDPOINT}/{repository}/resolve/main/{_CONFIG}"
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            token = get_token()  # of who has logged in
            headers = {"authorization": f"Bearer {token}"} if token else {}
            status = get_session().head(address, headers=headers, timeout=SECONDS).status_code
    except Exception as error:  # of the HTTP library that this version of the hub uses
        return f"{constants.ENDPOINT} cannot be reached ({' '.join(str(error).split())[:80]})"
    if status in (401, 403):
        return f"{constants.ENDPOINT} gives you no repository {repository}"
    return None  # a missing configuration file (404) does not matter to NAME/TAG


def _what_to_fetch(model_id: str, files: list[Needed], problem: str) -> str:
    """Message with the files to download and the place to put them."""
    missing = [f"{' or '.join(file.names)} of {file.repository}" for file in files if not file.here]
    repository = files[0].repository
    folder = repository.rpartition("/")[2]
    commands = [f"`hf download {repository} --local-dir {folder}`"]
    for other in {file.repository: None for file in files[1:] if file.repository != repository}:
        commands.append(f"`hf download {other} {_TEXT_FILES} --local-dir {folder}`")
    return (
        f"{model_id} is not on this machine, and {problem}. It needs {', '.join(missing)}. Where "
        f"there is a network: {' and '.join(commands)}, then copy that folder here and use "
        f"--model local-dir:{folder} (--allow-pickle, if it holds only .bin)"
    )
