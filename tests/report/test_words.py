"""The words of a report: no setting of a method is shown as a symbol or an abbreviation."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args

import pytest

from anyclass.methods import METHODS
from anyclass.report.words import SETTINGS, of_methods, setting

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


WORDS = SETTINGS | of_methods().settings


@pytest.mark.parametrize("method", METHODS)
def test_setting__is_in_words(method: str) -> None:
    raw = {
        name
        for name in settings_of(METHODS[method])
        if name not in WORDS and not PLAIN.issuperset(name.split("_"))
    }
    assert raw == set(), "give them words in `settings` of its `info`"


def test_setting__of_all_words_there_is_a_method() -> None:
    names = {name for method in METHODS.values() for name in settings_of(method)}
    assert set(WORDS) <= names
    assert len(set(WORDS.values())) == len(WORDS)
    assert setting("tes_epochs") == "text synthesis: epochs"
    assert setting("batch_size") == "batch size"
