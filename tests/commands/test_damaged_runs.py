"""A run folder that is damaged, or comes from somebody else: one line, exit code 2, or success."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyclass
from anyclass.backbone import Backbone
from anyclass.commands.edit_classes import edit_classes
from anyclass.commands.evaluate import evaluate
from anyclass.commands.export import export
from anyclass.commands.output import rename_lines
from anyclass.commands.predict import predict
from anyclass.commands.rename import rename
from anyclass.commands.report import report
from anyclass.commands.second_round import inherited
from anyclass.commands.serve import serve
from anyclass.errors import AnyclassError, FileError, RequestError
from anyclass.review.catalogue import Catalogue
from anyclass.run.content import check_content
from anyclass.run.folder import FILES
from tests.commands.conftest import Found

JSON = ("config.json", "environment.json", "classes.json", "metrics.json", "naming.json")
JSON += ("manifest.json", "class_history.json", "model/classifier.json")


@pytest.fixture(scope="module")
def edited(found: Found, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The run, with classes that were edited once."""
    run = shutil.copytree(found.run, tmp_path_factory.mktemp("edited") / "run")
    edit_classes(run, rename={"discovered 1": "disc"})
    return Found(run, found.images)


@pytest.fixture(autouse=True)
def loaded_once(tiny_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is not read from the disk for each command: this is about the other files."""
    clip = tiny_backbone()

    def load(model_id: str, *_: Any, **__: Any) -> Backbone:
        if model_id != clip.model_id:
            raise RequestError(f"no model is called {model_id!r}")
        return clip

    monkeypatch.setattr(Backbone, "load", load)


@pytest.fixture
def run(edited: Found, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(edited.run, tmp_path / "run"))


def doors(run: Path, images: Path, out: Path) -> dict[str, Callable[[], object]]:
    """Everything that reads a run folder."""
    return {
        "report": lambda: report(run),
        "rename": lambda: rename_lines(rename(run)),
        "undo": lambda: rename_lines(rename(run, undo=True)),
        "predict": lambda: predict(run, images, out / "labels.csv", overwrite=True),
        "evaluate": lambda: evaluate(run, images, prompt_ensemble=False),
        "export": lambda: export(run, folders=out / "folders", fiftyone=out / "samples.json"),
        "cleanlab": lambda: export(run, cleanlab=out / "cleanlab"),
        "serve": lambda: Catalogue.read(run).view("least_confident", None, "all", {}),
        "from": lambda: inherited(run),
        "load": lambda: loaded(anyclass.load(run)),
    }


def loaded(run: Any) -> object:
    return run.metrics, run.predictions, run.report, run.suspicious, run._repr_html_()


LIGHT = ("report", "rename", "undo", "serve", "from")
"""Doors without a model: quick enough for every damage."""


def open_doors(run: Path, images: Path, out: Path, names: Iterator[str] | tuple[str, ...]) -> list:
    """Use a run; returns the messages of those that refuse it."""
    said = []
    for name in names:
        copy = Path(shutil.copytree(run, out / "copy", symlinks=True, copy_function=link_or_copy))
        (out / "of").mkdir()
        try:
            doors(copy, images, out / "of")[name]()
        except AnyclassError as error:
            assert error.exit_code == 2, (name, error)
            assert "\n" not in str(error), (name, error)
            assert len(str(error)) < 700
            said.append(str(error))
        finally:
            shutil.rmtree(copy)
            shutil.rmtree(out / "of")
    return said


def link_or_copy(source: str, target: str) -> None:
    """Pipes are made anew."""
    if Path(source).is_file():
        shutil.copyfile(source, target)
    else:
        os.mkfifo(target)


def changed(path: Path, *place: str | int, value: Any) -> None:
    """Another value at a place of a JSON file; `...` removes it."""
    content = json.loads(path.read_text())
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "place", "value", "said"),
    [
        ("config.json", ["images"], 5, "config.json is damaged: images: Input should be a valid"),
        ("config.json", ["images"], "a\0b", "images: Value error, there is a NUL in it"),
        ("config.json", ["model"], ..., "model: Field required"),
        ("config.json", ["model"], None, "images without a model"),
        ("config.json", ["images"], "", "images: String should have at least 1 character"),
        ("environment.json", ["model", "id"], ..., "model.id: Field required"),
        ("environment.json", ["packages"], ..., "packages: Field required"),
        ("config.json", ["again", "method"], [], "again.method: List should have at least 1 item"),
        ("environment.json", ["model", "weights_sha256"], 7, "model.weights_sha256: Input should"),
        ("metrics.json", ["rejected"], ..., "metrics.json is damaged: rejected: Field required"),
        ("metrics.json", ["seconds"], "two", "seconds: Input should be"),
        ("metrics.json", ["seconds", "total"], "2", "seconds.total: Input should be"),
        ("metrics.json", ["confusion"], [[1]], "confusion is not 4 x 4"),
        ("metrics.json", ["confusion", 2], [0, 0], "confusion is not 4 x 4"),
        ("metrics.json", ["confusion", 0, 0], -1, "confusion.0.0: Input should be greater than"),
        ("metrics.json", ["confusion", 0, 0], 10**30, "confusion.0.0: Input should be less than"),
        ("metrics.json", ["confusion_counts"], {"true": [0]}, "counts.predicted: Field required"),
        (
            "metrics.json",
            ["confusion_counts"],
            {"true": [0, 4], "predicted": [1, 1], "count": [1, 1]},
            "confusion_counts has more than 4 classes",
        ),
        (
            "metrics.json",
            ["confusion_counts"],
            {"true": [0, 1], "predicted": [1], "count": [1]},
            "the lists of confusion_counts differ in length",
        ),
        ("metrics.json", ["adapted", "n"], 0, "adapted.n: Input should be greater than 0"),
        ("metrics.json", ["adapted", "accuracy"], "good", "adapted.accuracy: Input should be"),
        ("metrics.json", ["adapted", "per_class", 0, "name"], ..., "per_class.0.name: Field requ"),
        ("metrics.json", ["facts"], {"a": [1]}, "facts.a: Input should be a valid number"),
        ("metrics.json", ["controls", "kmeans"], {}, "controls.kmeans.accuracy: Field required"),
        ("classes.json", ["names"], ["a", "b"], "classes.json is damaged: the saved classes"),
        ("classes.json", ["unknown"], 10**30, "confusion is not 1"),
        ("classes.json", ["kinds", 0], "odd", "the saved classes are damaged"),
        ("naming.json", ["classes", 0, "index"], ..., "classes.0.index: Field required"),
        ("naming.json", ["classes", 0, "index"], 3, "its classes are not those of classes.json"),
        ("naming.json", ["classes", 1, "typical"], 3, "classes.1.typical: Input should be"),
        ("manifest.json", ["files"], [], "manifest.json is damaged: files: Input should be"),
    ],
)
def test_report_and_rename__name_the_damaged_place(
    run: Path, file: str, place: list[str | int], value: Any, said: str
) -> None:
    changed(run / file, *place, value=value)
    with pytest.raises(FileError) as caught:
        check_content(run)
    assert said in str(caught.value)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["hit_rate_known", "hit_rate_known_top", "known"])
def test_report__without_the_check_of_names(run: Path, key: str) -> None:
    changed(run / "naming.json", key, value=...)
    page = Path(report(run)["report"]).read_text("utf-8")
    assert "named in the same way" not in page


TEXTS = ("[]", "{}", "null", "3", "{", '{"a": NaN}', "[" * 9999, "\udc80")


@pytest.mark.parametrize("name", [*JSON, "log.jsonl", "descriptions.jsonl"])
def test_doors__a_file_of_another_kind(edited: Found, run: Path, name: str) -> None:
    data = (run / name).read_bytes()
    for text in TEXTS:
        (run / name).write_text(text, errors="surrogateescape")
        with suppress(FileError):  # one line a door is checked below; here nothing else comes out
            check_content(run)
    (run / name).write_text("[]")
    for command in doors(run, edited.images, run.parent).values() if name in JSON[:6] else ():
        with pytest.raises(AnyclassError) as caught:
            command()
        assert str(run) in str(caught.value)
        assert caught.value.exit_code == 2
    (run / name).write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", [*JSON, "log.jsonl", "descriptions.jsonl", "rejected.csv"])
def test_doors__files_of_another_kind(edited: Found, run: Path, name: str, text: str) -> None:
    (run / name).write_text(text, errors="surrogateescape")
    open_doors(run, edited.images, run.parent, tuple(doors(run, run, run)))


@pytest.mark.parametrize("content", ["[]", "{}", '{"metrics.json": 3}', '{"x": true}'])
def test_rename__a_list_of_prepared_files_that_is_damaged(run: Path, content: str) -> None:
    (run / "unfinished").mkdir()
    (run / "unfinished" / "ready.json").write_text(content)
    with pytest.raises(FileError, match="was not written by anyclass"):
        rename(run)


@pytest.mark.parametrize("name", ["../../victim/.bashrc", "/etc/hostname", "model/../../x", "a\nb"])
def test_rename__prepared_files_from_elsewhere(run: Path, name: str) -> None:
    victim = run.parent / "victim"
    victim.mkdir()
    (victim / ".bashrc").write_text("precious")
    (run / "unfinished").mkdir()
    (run / "unfinished" / "ready.json").write_text(json.dumps({name: True}))
    with pytest.raises(FileError, match="was not written by anyclass"):
        rename(run)
    assert (victim / ".bashrc").read_text() == "precious"


@pytest.mark.parametrize("place", ["model", "review", "unfinished", "report.html", "controls/more"])
def test_doors_that_write__refuse_links(run: Path, place: str) -> None:
    victim = run.parent / "victim"
    victim.mkdir()
    if (run / place).exists():
        (run / place).rename(run.parent / "aside")
    (run / place).symlink_to(victim)
    writes = (report, rename, lambda run: edit_classes(run, undo=True), serve)
    for command in writes:
        with pytest.raises(RequestError, match="is a link, and a run is never written through"):
            command(run)
    assert list(victim.iterdir()) == []


def test_rename__prepared_files_that_are_damaged(run: Path) -> None:
    (run / "unfinished").mkdir()
    (run / "unfinished" / "metrics.json").write_text("{}")
    (run / "unfinished" / "ready.json").write_text('{"metrics.json": true}')
    with pytest.raises(FileError, match="metrics.json is damaged: n: Field required"):
        rename(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*JSON, *FILES[6:10], "map.parquet", "images.parquet"])
def test_doors__one_file_is_gone_empty_or_cut(edited: Found, run: Path, name: str) -> None:
    path = run / name
    data = path.read_bytes()
    for content in (b"", data[: len(data) // 2], b"PAR1" + data[4:-20]):
        path.write_bytes(content)
        open_doors(run, edited.images, run.parent, ("report", "rename"))
    path.unlink()
    open_doors(run, edited.images, run.parent, ("report", "undo"))


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names on Windows")
@pytest.mark.parametrize("name", [*JSON, "predictions.parquet", "log.jsonl", "rejected.csv"])
def test_doors__a_pipe_is_not_opened(edited: Found, run: Path, name: str) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)
    assert len(open_doors(run, edited.images, run.parent, LIGHT)) == len(LIGHT)
    (run / name).unlink()
    (run / name).symlink_to("/dev/zero")
    assert len(open_doors(run, edited.images, run.parent, LIGHT)) == len(LIGHT)


@pytest.mark.slow
def test_doors__an_undamaged_run_passes(edited: Found, run: Path, tmp_path: Path) -> None:
    assert open_doors(run, edited.images, tmp_path, tuple(doors(run, run, run))) == []


VALUES = (..., None, 5, -1, 10**30, 1e300, "x", "", [], {}, [[1]], {"a": {"b": []}}, True, "\ud800")


def places(content: Any, depth: int = 3) -> Iterator[list[str | int]]:
    """All places of a JSON value; of lists the first two."""
    inside = list(content.items()) if isinstance(content, dict) else []
    inside = list(enumerate(content))[:2] if isinstance(content, list) else inside
    for key, value in inside:
        yield [key]
        if depth:
            yield from ([key, *rest] for rest in places(value, depth - 1))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", JSON)
def test_doors__every_value_of_every_file(edited: Found, run: Path, name: str) -> None:
    """Each place of each file gets some other values; a tenth of them passes all doors."""
    draw = np.random.default_rng(list(name.encode()))
    text = (run / name).read_text()
    every = tuple(doors(run, run, run))
    for place in places(json.loads(text)):
        for value in VALUES:
            if value is ... and isinstance(place[-1], int):
                continue
            (run / name).write_text(text)
            changed(run / name, *place, value=value)
            doors_now = every if draw.random() < 0.1 else ("report", "undo")
            try:
                open_doors(run, edited.images, run.parent, doors_now)
            except Exception as error:
                raise AssertionError(f"{name} {place} = {value!r}") from error


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_doors__flipped_bytes_of_every_file(edited: Found, run: Path) -> None:
    draw = np.random.default_rng(5)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name[0] != ".")
    for path in files:
        data = path.read_bytes()
        for _ in range(12):
            wrong = bytearray(data)
            for place in draw.integers(0, max(1, len(data)), draw.integers(1, 4)):
                wrong[place : place + 1] = bytes([draw.integers(0, 256)])
            path.write_bytes(wrong)
            doors_now = tuple(draw.choice(list(doors(run, run, run)), 3, replace=False))
            try:
                open_doors(run, edited.images, run.parent, doors_now)
            except Exception as error:
                raise AssertionError(f"{path.name}, {doors_now}") from error
        path.write_bytes(data)


def test_report__of_a_run_without_the_place_of_its_images(run: Path) -> None:
    changed(run / "config.json", "images", value=None)
    assert report(run)["report"] == str(run / "report.html")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["members"], [], "it has no class"),
        (["naming", 0], {}, "states.0.naming.0.index: Field required"),
        (["naming", 1, "typical"], 3, "naming.1.typical: Input should be"),
        (["naming", 1, "name"], "other", "its names are not those of its classes"),
        (["classes", "unknown"], 10**30, "the number of its classes differs"),
        (["naming"], [], "its names are not those of its classes"),
        (["changes", "renamed"], ..., "changes.renamed: Field required"),
        (["changes", "merged"], {"a": 3}, "changes.merged.a: Input should be"),
    ],
)
def test_undo__of_a_damaged_state(run: Path, place: list[str | int], value: Any, said: str) -> None:
    changed(run / "class_history.json", "states", 0, *place, value=value)
    with pytest.raises(FileError, match=r"class_history\.json is damaged") as caught:
        rename(run, undo=True)
    assert said in str(caught.value)
