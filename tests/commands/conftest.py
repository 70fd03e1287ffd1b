"""A run that discovered classes, for the tests that edit and damage copies of it."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from anyclass.commands.fit import fit
from anyclass.methods import METHODS
from tests.conftest import draw_shapes

LABELLED = ("red square", "green ring")
"""Its classes with labelled images."""


class Found(NamedTuple):
    """A run that discovered two classes, and its images, one of which cannot be read."""

    run: Path
    images: Path


@pytest.fixture(scope="session")
def found(tiny_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Fitted once; not to be changed."""
    folder = tmp_path_factory.mktemp("found")
    images = draw_shapes(folder / "images")
    (images / "blue disc" / "1.png").write_bytes(b"no image")
    known = [f"{name}/{i}.{'png' if i % 2 else 'jpg'},{name}" for name in LABELLED for i in (0, 1)]
    (folder / "labels.csv").write_text("\n".join(["file_name,label", *known]))
    (folder / "words.txt").write_text("disc\nkite\nring\nstar\ntoy\nhouse\n")
    request = {"images": images, "model": tiny_clip(), "device": "cpu", "engine": "torch"}
    request |= {"labels": str(folder / "labels.csv"), "classes": LABELLED, "unknown": 2}
    method = METHODS["kmeans"](semi_supervised=True)
    fit(method, folder / "run", names=folder / "words.txt", **request)
    return Found(folder / "run", images)
