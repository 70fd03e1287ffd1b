"""Classifiers from somebody else: any bytes and any JSON give a classifier, or `ModelError`."""

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyclass import Classifier
from anyclass.backbone import Backbone
from anyclass.errors import ModelError
from tests.classifier.test_classifier import classifier

FILES = ("classifier.json", "classifier.safetensors")
FORBIDDEN = {"pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "socket.connect"}
"""Audit events of code that is run, and of connections (docs.python.org/3/library/audit_events)."""

happened: list[str] = []
sys.addaudithook(lambda event, _: happened.append(event) if event in FORBIDDEN else None)

SHORT = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LONG = settings(SHORT, max_examples=1500)

flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1)
"""Places in a file, and the bytes that are put there."""
numbers = st.sampled_from([0, -1, 1, 2**31, 2**63, 10**40, 1e308, -0.5]) | st.floats(
    allow_nan=False
)
texts = st.sampled_from(["", "../../x", "a\0b", "\ud800", "hf-hub:", "x" * 100_000]) | st.text()
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module", params=["cosine", "trained"])
def saved(
    request: Any, tiny_clip: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A saved classifier; its files are damaged and mended."""
    folder = tmp_path_factory.mktemp("saved")
    classifier(tiny_clip(), None if request.param == "cosine" else "head").save(folder)
    return folder


def check(folder: Path, name: str, content: bytes, base: Backbone) -> None:
    """Load with other content of a file: a classifier, or the one error, in short."""
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    happened.clear()
    try:
        made = Classifier.load(folder, base=base, engine="torch")
    except ModelError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1500
    else:
        rows = torch.nn.functional.normalize(torch.ones(2, 24), dim=-1)
        assert made.probabilities(rows).isfinite().all()
        assert all(isinstance(name, str) for name in made.classes_)
    finally:
        (folder / name).write_bytes(whole)
    assert not happened


def flipped(content: bytes, places: list[tuple[float, int]]) -> bytes:
    """Other bytes at some places; of safetensors, half of them in the header."""
    header = 8 + int.from_bytes(content[:8], "little")
    among = [
        header if header < len(content) and i % 2 else len(content) for i in range(len(places))
    ]
    changed = bytearray(content)
    for (place, byte), size in zip(places, among, strict=True):
        changed[int(place * size)] = byte
    return bytes(changed)


def inner(value: Any) -> Iterator[tuple[str | int, ...]]:
    """Where the values of a JSON document are; () is the whole."""
    yield ()
    parts = value.items() if isinstance(value, dict) else []
    parts = enumerate(value[:2]) if isinstance(value, list) else parts
    for key, part in parts:
        yield from ((key, *rest) for rest in inner(part))


def with_value(document: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """The document with another value at a place."""
    if not place:
        return value
    document = copy.copy(document)
    document[place[0]] = with_value(document[place[0]], place[1:], value)
    return document


def check_flips(saved: Path, base: Backbone, name: str, places: list[tuple[float, int]]) -> None:
    check(saved, name, flipped((saved / name).read_bytes(), places), base)


def check_value(saved: Path, base: Backbone, draw: st.DataObject) -> None:
    document = json.loads((saved / FILES[0]).read_text("utf-8"))
    place = draw.draw(st.sampled_from(list(inner(document))))
    text = json.dumps(with_value(document, place, draw.draw(values)))
    check(saved, FILES[0], text.encode(), base)


@SHORT
@given(name=st.sampled_from(FILES), places=flips)
def test_load__flipped_bytes(
    saved: Path, tiny_backbone: Callable[..., Backbone], name: str, places: list[tuple[float, int]]
) -> None:
    check_flips(saved, tiny_backbone(), name, places)


@SHORT
@given(draw=st.data())
def test_load__other_values(
    saved: Path, tiny_backbone: Callable[..., Backbone], draw: st.DataObject
) -> None:
    check_value(saved, tiny_backbone(), draw)


@pytest.mark.slow
@LONG
@given(name=st.sampled_from(FILES), places=flips)
def test_load__many_flipped_bytes(
    saved: Path, tiny_backbone: Callable[..., Backbone], name: str, places: list[tuple[float, int]]
) -> None:
    check_flips(saved, tiny_backbone(), name, places)


@pytest.mark.slow
@LONG
@given(draw=st.data())
def test_load__many_other_values(
    saved: Path, tiny_backbone: Callable[..., Backbone], draw: st.DataObject
) -> None:
    check_value(saved, tiny_backbone(), draw)


@pytest.mark.parametrize("model", ["../../x", "x", "a\0b", "\ud800", "", "ViT-B-32/none"])
def test_load__a_model_that_there_is_not(saved: Path, tmp_path: Path, model: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "saved")
    document = json.loads((folder / FILES[0]).read_text("utf-8"))
    (folder / FILES[0]).write_text(json.dumps(document | {"model": model}))
    with pytest.raises(ModelError, match=r"the model that \S+classifier\.json names: "):
        Classifier.load(folder)
