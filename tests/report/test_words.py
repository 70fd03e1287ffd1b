"""The words of a report: no setting of a method is shown as a symbol or an abbreviation."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import resources
from typing import Any, get_args

import pytest

from anyclass.commands.help_pages import words_of_methods
from anyclass.methods import METHODS
from anyclass.report.words import METHOD_WORDS, SETTINGS, setting

PLAIN = set(
    "allow augmentation balanced batch bias bit branch branches captioner captions class collapsed "
    "collisions concurrency controls copies data decay decoder device directions domain encoder "
    "ensemble entropy epochs failures feature fit flip floor folder four freeze from generator "
    "grey group groups head image in iterations jitter keys kind label latent learn length loss "
    "margin max mix model momentum named neighbours noise normalise nouns objective on out path "
    "plural pool precision price prior probability prototypes ratio recipe reconstruction "
    "reduction regroup relabel released remote restarts retries rounds rows scale search sees semi "
    "share shared sharpness shots shrinkage size slope source start steps stop student supervised "
    "synthetic teacher temperature temperatures template text texts timeout tokens tolerance train "
    "tuning up update url view warm warmup weight width words".split()
)
"""Words of the field that names of settings are made of."""


def settings_of(cls: type) -> Iterator[str]:
    """Names of all hyper-parameters, also of those inside others."""
    for field in fields(cls):  # type: ignore[arg-type]
        yield field.name
        for inner in dataclasses_in(field.type):
            yield from settings_of(inner)


def dataclasses_in(annotation: Any) -> Iterator[type]:
    """Dataclasses in an annotation, however deep."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from dataclasses_in(part)


def test_method_words__are_those_of_the_methods() -> None:
    stored = json.loads(METHOD_WORDS.read_text("utf-8"))
    assert words_of_methods() == stored, "words have changed: make help-pages"


@pytest.mark.parametrize("method", METHODS)
def test_setting__is_in_words(method: str) -> None:
    raw = {
        name
        for name in settings_of(METHODS[method])
        if name not in SETTINGS and not PLAIN.issuperset(name.split("_"))
    }
    assert raw == set(), "give them words in `settings` of its `info`"


def test_setting__of_all_words_there_is_a_method() -> None:
    names = {name for method in METHODS.values() for name in settings_of(method)}
    assert set(SETTINGS) <= names
    assert len(set(SETTINGS.values())) == len(SETTINGS)
    assert setting("tes_epochs") == "text synthesis: epochs"
    assert setting("batch_size") == "batch size"


def test_templates__no_key_is_called_like_a_method_of_a_dictionary() -> None:
    """Jinja takes the method, which is always true, so that a condition says nothing."""
    folder = resources.files("anyclass.report") / "page"
    taken = "|".join(name for name in dir(dict) if not name.startswith("_"))
    for page in folder.iterdir():
        found = re.findall(rf"\w\.(?:{taken})\b(?!\()", page.read_text("utf-8"))
        assert found == [] or page.name.endswith(".css"), page.name
