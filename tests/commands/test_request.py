"""What the user asks for: wrong values are named in one line, and what runs is chosen."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.backbone.device import torch_device
from anyclass.commands.plan import plan
from anyclass.commands.request import choose, remarks, request_of
from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.methods import METHODS
from anyclass.methods.get import Get
from anyclass.methods.simgcd import SimGcd
from anyclass.training.tuning import Tuning
from anyclass.training.two_views import TwoViewTuning

LATTECLIP, ZERO_SHOT = METHODS["latteclip"], METHODS["zero-shot"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "--images: field required"),
        ({"images": 3}, "--images: input is not a valid path"),
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
    with pytest.raises(RequestError, match="^--device .*cannot be used here .*; say cpu$") as bad:
        torch_device(name)
    assert "\n" not in str(bad.value)


def dataset(images: Path, *names: str, labels: str | None = None) -> ImageDataset:
    return ImageDataset.read(images, names or None, labels)


def test_choose__auto_says_why(images: Path) -> None:
    chosen = choose("auto", dataset(images, "b", "a"))
    assert (chosen.asked, chosen.name) == ("auto", "latteclip-plus")
    assert "no image has a label" in chosen.why[0]
    assert choose("auto", dataset(images, "a")).name == "zero-shot"
    labelled = choose("auto", dataset(images, labels="folders"))
    assert "14 of 14 images have a label" in labelled.why[0]


def test_choose__a_name_or_a_method(images: Path) -> None:
    two = dataset(images, "b", "a")
    by_name = choose("latteclip", two)
    assert (by_name.asked, by_name.method) == ("latteclip", LATTECLIP())
    itself = choose(ZERO_SHOT(ensemble=True), two)
    assert (itself.asked, itself.name) == ("zero-shot", "zero-shot")
    assert itself.method == ZERO_SHOT(ensemble=True)


class Stranger:
    """Something with a `fit` that is none of the methods."""

    def fit(self, clip: Any, dataset: Any, log: Any, scratch: Any = None) -> Any:
        raise NotImplementedError


def test_choose__refuses(images: Path) -> None:
    with pytest.raises(RequestError, match="'sheep': use auto, latteclip, latteclip-plus, ship"):
        choose("sheep", dataset(images, "b", "a"))
    with pytest.raises(RequestError, match="nothing is known of the classes: .*--unknown N"):
        choose("auto", dataset(images))
    with pytest.raises(RequestError, match="is no method: use auto, latteclip"):
        choose(Stranger(), dataset(images, "b", "a"))


def test_remarks__what_was_left_out_and_twins(images: Path) -> None:
    (images / "notes.txt").write_text("a")
    known = dataset(images, "red square", "Red_Square", "kite")
    said = remarks(known, LATTECLIP(tuning=Tuning(tune="head")), "cpu")
    assert said[0].startswith("left out, files that are no images (1)")
    assert said[1:] == ["class names that look alike: 'red square' and 'Red_Square'"]
    assert remarks(known, LATTECLIP(tuning=Tuning(tune="all")), "cuda") == said
    slow = "no GPU: training all from pixels takes hours, --tune head takes minutes"
    assert remarks(known, LATTECLIP(tuning=Tuning(tune="all")), "cpu") == [*said, slow]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (SimGcd(), "about 62 minutes, with --epochs 32 about 10$"),
        (
            SimGcd(tuning=TwoViewTuning(batch_size=16)),
            "about 62 minutes, with --epochs 32 about 10$",
        ),
        (Get(), "about 124 minutes, with --epochs 16 --tes-epochs 16 about 10$"),
        (Get(tes_epochs=10), "about 65 minutes, with --epochs 30 --tes-epochs 1 about 10$"),
        (Get(text_branch=False), "about 62 minutes, with --epochs 32 about 10$"),
        (Get(tuning=TwoViewTuning(epochs=10)), "about 65 .* --epochs 1 --tes-epochs 30 about 10$"),
        (SimGcd(tuning=TwoViewTuning(epochs=60)), None),
        (SimGcd(tuning=TwoViewTuning("head")), None),
        (SimGcd(tuning=TwoViewTuning(views=0)), "--views 0 reads every image anew"),
        (LATTECLIP(), None),
    ],
)
def test_remarks__how_long_pairs_take_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, method: Any, said: str | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    files = tuple(f"{i}.png" for i in range(4000))
    many = ImageDataset(Path("x"), files, np.full(4000, -1), Classes.of(()))
    assert remarks(many, method, "cuda") == []
    found = [line for line in remarks(many, method, "cpu") if "from pixels" not in line]
    assert len(found) == (said is not None)
    assert said is None or re.search(said, found[0])


@pytest.mark.parametrize(
    ("amx", "precision", "minutes", "end"),
    [
        (False, "float32", 6248, "about 31"),
        (True, "float32", 6248, "about 31, with --precision bf16 half of it"),
        (True, "bf16", 3124, "about 16"),
    ],
)
def test_remarks__even_one_epoch_of_many_images_takes_long(
    monkeypatch: pytest.MonkeyPatch, amx: bool, precision: Any, minutes: int, end: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    files = tuple(f"{i}.png" for i in range(200_000))
    many = ImageDataset(Path("x"), files, np.full(len(files), -1), Classes.of(()))
    (said,) = remarks(many, Get(), "cpu", precision)
    assert said.endswith(f"about {minutes} minutes, with --epochs 1 --tes-epochs 1 {end}")
    assert remarks(many[:200], Get(), "cpu", precision) == []


def test_remarks__bf16_is_no_help_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    some = ImageDataset(Path("x"), ("a.png",), np.full(1, -1), Classes.of(()))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    (said,) = remarks(some, Get(), "cpu", "bf16")
    assert said == "this processor has no AMX: --precision bf16 is slower than float32 here"
    assert remarks(some, Get(), "cuda", "bf16") == remarks(some, Get(), "cpu") == []


def test_plan__counts_and_estimates(images: Path) -> None:
    two = {"images": images, "classes": ("b", "a"), "device": "cpu"}
    auto = plan("auto", **two)
    assert (auto["method"], auto["embeddings"]) == ("latteclip-plus", 14)
    head = plan(LATTECLIP(tuning=Tuning("head")), **two)
    assert (head["images"], head["labelled"], head["method"]) == (14, 0, "latteclip")
    assert head["classes"] == [{"name": "b", "kind": "named"}, {"name": "a", "kind": "named"}]
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
