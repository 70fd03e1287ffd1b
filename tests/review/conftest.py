"""A run with labelled, suspicious, predicted, rejected and discovered images, and its session."""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from anyclass import Backbone, Classifier
from anyclass.commands.fit import fit
from anyclass.review.session import Session, Tools
from anyclass.review.thumbnails import Thumbnails
from tests.conftest import SHAPES, draw_shape

HOSTILE_FILE = "<img src=x onerror=alert(1)>.png"
HOSTILE_CLASS = '"><script>alert(2)</script>'
BROKEN = "broken.jpg"


class Reviewed(NamedTuple):
    """A finished run, not to be changed, and its images."""

    run: Path
    images: Path
    model: str


@pytest.fixture(scope="session")
def reviewed(
    tiny_clip: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, own_cache: Path
) -> Reviewed:
    """Shapes in one folder: labels for two classes, two classes to discover."""
    folder = tmp_path_factory.mktemp("reviewed")
    images = folder / "images"
    images.mkdir()
    labels = [("file_name", "label")]
    for name, shape in SHAPES.items():
        for i in range(shape.count * 2):
            file = f"{name.split()[1]}-{i}.png"
            draw_shape(shape, i).save(images / file)
            if name in ("red square", "green ring") and i < shape.count:
                labels.append((file, HOSTILE_CLASS if name == "green ring" else name))
    draw_shape(SHAPES["blue disc"], 3).save(images / HOSTILE_FILE)
    (images / BROKEN).write_bytes(b"no image")
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(labels)
    model = tiny_clip("huggingface")
    fit(
        "auto",
        folder / "run",
        images=images,
        labels=folder / "labels.csv",
        unknown=2,
        model=model,
        engine="torch",
        device="cpu",
        prompt_ensemble=False,
    )
    return Reviewed(folder / "run", images, model)


@pytest.fixture
def run(reviewed: Reviewed, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(reviewed.run, tmp_path / "run"))


@pytest.fixture
def edits() -> list[dict[str, Any]]:
    """What `edit_classes` was called with."""
    return []


@pytest.fixture
def tools(reviewed: Reviewed, edits: list[dict[str, Any]]) -> Tools:
    """The model of the run, and an `edit_classes` that writes down what it should do."""

    def load(run: Path) -> tuple[Backbone, Classifier]:
        base = Backbone.load(reviewed.model, "cpu", engine="torch")
        return base, Classifier.load(run / "model", "cpu", engine="torch", base=base)

    def edit_classes(run: Path, **edit: Any) -> dict[str, Any]:
        edits.append(edit)
        return {"renamed": {"a": "b"}, "merged": {}, "split": {}, "rejected": [], "restored": []}

    return Tools(load, edit_classes)


@pytest.fixture
def session(run: Path, tools: Tools, tmp_path: Path) -> Iterator[Session]:
    """A session of the copy."""
    opened = Session(run, tools, Thumbnails(tmp_path / "thumbnails"))
    yield opened
    opened.close()
    opened.index.wait()
