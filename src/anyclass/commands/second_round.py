"""Second round: what `--from RUN` takes from an earlier run."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyclass.commands.command_words import flag_words
from anyclass.commands.option_owners import flag_of
from anyclass.commands.request import Request, was_array
from anyclass.data import ImageDataset
from anyclass.data.splits import hold_out
from anyclass.errors import RequestError
from anyclass.run.earlier import EarlierRun
from anyclass.run.fitted_images import fitted_contents

OWN = {"labels", "from_run", "file_column", "label_column"}
"""Options that a second round does not inherit."""


def inherited(run: Path | str) -> dict[str, Any]:
    """Options of `Request` that a second round takes from an earlier run.

    Raises:
        RequestError: the folder contains no finished run.
    """
    config = EarlierRun.read(Path(run)).config
    names = {declared.name for declared in fields(Request)} - OWN
    if config.get("listed"):  # files one by one, and not all of a folder
        names -= {"images"}
    values = {name: config[name] for name in names if config.get(name) is not None}
    return {name: value for name, value in values.items() if not was_array(value)}


def with_inherited(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a request, with those of the earlier run that it starts from, if there is one."""
    run = options.get("from_run")
    return dict(options) if run is None else inherited(run) | dict(options)


def inherited_flags(flags: Sequence[str]) -> list[str]:
    """Flags of a command line, with those of the run behind `--from`, if there is one."""
    words = list(flags)
    run = value_of(words, "--from")
    if run is None:
        return words
    given = {word.partition("=")[0].replace("_", "-").replace("--no-", "--") for word in words}
    for name, value in inherited(run).items():
        if isinstance(value, dict):  # names with prompts, from Python: no flag takes them
            value = Path(run) / "classes.json"
        flag = flag_of(name)
        if flag not in given:
            words += flag_words(flag, value)
    return words


def value_of(words: Sequence[str], flag: str) -> str | None:
    """Value of a flag; None if it is not given."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == flag and equals:
            return value
        if name == flag and i + 1 < len(words):
            return words[i + 1]
    return None


def check_same_images(
    run: Path | None, dataset: ImageDataset, hashes: Sequence[str | None]
) -> None:
    """Refuse images in memory that are called like other images of the earlier run.

    Args:
        run: the earlier run; None: there is none.
        dataset: the images, whose names in memory are their numbers.
        hashes: SHA-256 of each.

    Raises:
        RequestError: they would get the labels of those images.
    """
    if run is None or dataset.memory is None:
        return
    before = fitted_contents(run) or {}
    for name, content in zip(dataset.files, hashes, strict=True):
        if before.get(name, content) != content:
            raise RequestError(
                f"image {name!r} is another one than image {name!r} of {run}, whose labels it "
                "would get: give the images of that run in their order, and others after them"
            )


def training_labels(request: Request, dataset: ImageDataset) -> ImageDataset:
    """Dataset without the labels that are held out of training.

    With `--from`, labels that the earlier run held out stay held out, if `--holdout` is the same.
    """
    earlier = request.earlier
    if earlier is None or earlier.config["holdout"] != request.holdout:
        return hold_out(dataset, request.holdout, request.seed)
    out = np.isin(dataset.files, list(earlier.held_out)) & earlier.unchanged(dataset)
    return replace(dataset, labels=np.where(out, -1, dataset.labels))
