"""What the user asks for: wrong values are named in one line, and what runs is chosen."""

from pathlib import Path
from typing import Any

import pytest
import torch

from anyclass.backbone.device import torch_device
from anyclass.commands.chosen_method import choose_method
from anyclass.commands.plan import plan
from anyclass.commands.request import request_of
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.methods import METHODS, MethodInfo, Situation
from anyclass.training.tuning import Tuning

LATTECLIP, ZERO_SHOT = METHODS["latteclip"], METHODS["zero-shot"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"give images \(--images DIR\) or their features"),
        ({"images": "a", "seed": -1}, r"--seed: .*greater than or equal to 0 \(got -1\)"),
        ({"images": "a", "seed": 2**32}, r"--seed: .*less than 4294967296"),
        ({"images": "a", "max_rejected": 2}, r"--max-rejected: .*less than or equal to 1 \(got 2"),
        ({"images": "a", "unknown": -2}, r"--unknown: .*\(got -2\)"),
        ({"images": "a", "engine": "fast"}, "--engine: .*'auto', 'torch', 'bf16' or 'onnx'"),
        ({"images": "a", "lables": "b"}, "--lables: unexpected keyword argument"),
        ({"images": "a", "classes": "x" * 999, "seed": "y" * 999}, "--seed: "),
    ],
)
def test_request_of__names_the_flag_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=f"^{said}") as refused:
        request_of(options)
    text = str(refused.value)
    assert "\n" not in text
    assert "pydantic" not in text
    assert len(text) < 250


def test_request__paths_are_absolute_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    request = request_of({"images": "photos", "classes": "names.txt", "labels": "a.csv"})
    saved = request.to_json()
    assert saved["images"] == str(tmp_path / "photos")
    assert saved["classes"] == str(tmp_path / "names.txt")
    assert saved["labels"] == str(tmp_path / "a.csv")
    saved = request_of({"images": "p", "classes": ("b", "a"), "labels": "folders"}).to_json()
    assert (saved["classes"], saved["labels"]) == (("b", "a"), "folders")


def test_request__columns_of_the_table_have_flags(images: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,what\nblue disc/0.jpg,disc\nred square/1.png,square\n")
    columns = {"file_column": "image", "label_column": "what"}
    dataset = request_of({"images": images, "labels": str(table), **columns}).dataset()
    assert dataset.classes.names == ("disc", "square")
    assert sorted(dataset.labels.tolist()) == [-1] * 12 + [0, 1]


@pytest.mark.parametrize(("unknown", "total"), [(0, 0), (2, 2), ("auto", 0)])
def test_request__unknown_classes_lie_beyond_the_names(
    images: Path, unknown: int | str, total: int
) -> None:
    assert request_of({"images": images, "unknown": unknown}).dataset().classes.total == total


def test_torch_device__names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert torch_device("auto") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert torch_device("auto") == "cuda"


@pytest.mark.parametrize("name", ["tpu", "", "cpu:x", "cuda:77"])
def test_torch_device__what_is_not_there(name: str) -> None:
    with pytest.raises(RequestError, match="^--device .*cannot be used here .*; use cpu$") as bad:
        torch_device(name)
    assert "\n" not in str(bad.value)


def dataset(images: Path, *names: str, labels: str | None = None) -> ImageDataset:
    return ImageDataset.read(images, names or None, labels)


def test_choose_method__auto_says_why(images: Path) -> None:
    chosen = choose_method("auto", dataset(images, "b", "a"))
    assert (chosen.asked, chosen.name) == ("auto", "open-world")
    assert chosen.method == METHODS["open-world"]()
    assert chosen.why == ["2 classes with only a name"]


ALL = ("blue disc", "green ring", "red square", "yellow kite")


@pytest.mark.parametrize(
    ("names", "labels", "unknown", "why"),
    [
        (("a",), None, 0, "1 class with only a name; there is no other class, so every image gets"),
        (("a",), None, 1, "1 class with only a name, 1 unknown class"),
        ((), "folders", 0, "4 classes with labels (14 images)"),
        ((), "folders", "auto", "4 classes with labels (14 images), unknown classes, their numb"),
        (
            (*ALL, "b"),
            "folders",
            3,
            "4 classes with labels (14 images), 1 class with only a name, ",
        ),
        ((), None, 5, "5 unknown classes; no class has a label or a name, so all images are clus"),
    ],
)
def test_choose_method__auto_says_what_is_known(
    images: Path, names: tuple[str, ...], labels: str | None, unknown: Any, why: str
) -> None:
    chosen = choose_method("auto", dataset(images, *names, labels=labels), unknown)
    assert chosen.name == "open-world"
    assert len(chosen.why) == 1
    assert chosen.why[0].startswith(why)


def test_choose_method__a_name_or_a_method(images: Path) -> None:
    two = dataset(images, "b", "a")
    by_name = choose_method("latteclip", two)
    assert (by_name.asked, by_name.method) == ("latteclip", LATTECLIP())
    itself = choose_method(ZERO_SHOT(ensemble=True), two)
    assert (itself.asked, itself.name) == ("zero-shot", "zero-shot")
    assert itself.method == ZERO_SHOT(ensemble=True)


class Stranger:
    """Something with a `fit` that is none of the methods."""

    info = MethodInfo("Stranger", (Situation.ANY,))

    def fit(self, data: Any, log: Any, scratch: Any = None, seed: int = 0) -> Any:
        raise NotImplementedError

    def workload(self, images: int, classes: int) -> Any:
        raise NotImplementedError


def test_choose_method__refuses(images: Path) -> None:
    with pytest.raises(RequestError, match="'sheep': did you mean ship. use auto, open"):
        choose_method("sheep", dataset(images, "b", "a"))
    with pytest.raises(RequestError, match="no information about the classes: .*--unknown N"):
        choose_method("auto", dataset(images))
    with pytest.raises(RequestError, match="is not a method: use auto, open-world"):
        choose_method(Stranger(), dataset(images, "b", "a"))
    with pytest.raises(RequestError, match="^ship-plus was replaced by open-world: .*, or auto$"):
        choose_method("ship-plus", dataset(images, "b", "a"))


def test_plan__counts_and_estimates(images: Path) -> None:
    two = {"images": images, "classes": ("b", "a"), "device": "cpu"}
    auto = plan("auto", **two)
    assert (auto["method"], auto["embeddings"]) == ("open-world", 14)
    head = plan(LATTECLIP(tuning=Tuning("head")), **two)
    assert (head["images"], head["labelled"], head["method"]) == (14, 0, "latteclip")
    known = {"kind": "named", "labelled": 0}
    assert head["classes"] == [{"name": "b"} | known, {"name": "a"} | known]
    assert head["embeddings"] == 14 * (1 + 4)
    assert head["disk_mb"] == round(70 * 4 * 1280 / 2**20, 1)
    assert head["minutes"] == 0.0
    tail = plan(LATTECLIP(tuning=Tuning(tune="tail", views=2)), **two)
    assert tail["embeddings"] == 14 * 3
    assert tail["disk_mb"] == round(42 * 2 * 192 * 49 / 2**20, 1)


def test_plan__does_not_guess(images: Path, tiny_clip: Any) -> None:
    two = {"images": images, "classes": ("b", "a"), "device": "cpu"}
    for unknown in (plan("auto", **two, model=tiny_clip()), plan("latteclip", **two)):
        assert (unknown["minutes"], unknown["disk_mb"]) == (None, None)


def test_torch_device__is_one_of_torch() -> None:
    assert torch.device(torch_device("auto")).type in ("cpu", "cuda")


def test_torch_device__meta_computes_nothing() -> None:
    with pytest.raises(RequestError, match="--device meta cannot be used here"):
        torch_device("meta")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("b,a , c d,", ("b", "a", "c d")),
        (",".join(map(str, range(999))), tuple(map(str, range(999)))),
        (["b,x", "a"], ("b,x", "a")),
        ({"b": "bee", "a": ["ay", "ah"]}, {"b": "bee", "a": ("ay", "ah")}),
    ],
)
def test_request_of__names_of_classes(images: Path, classes: Any, expected: Any) -> None:
    request = request_of({"images": images, "classes": classes})
    assert request.classes == expected
    assert request.to_json()["classes"] == expected


def test_request_of__a_file_with_commas_in_its_name(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b,a.txt").write_text("b\na\n")
    request = request_of({"images": images, "classes": "b,a.txt"})
    assert request.dataset().classes.names == ("b", "a")


def test_request__a_relative_model_folder_is_absolute_in_the_record(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = request_of({"images": images, "model": "local-dir:clip"}).to_json()
    assert record["model"] == f"local-dir:{tmp_path}/clip"
