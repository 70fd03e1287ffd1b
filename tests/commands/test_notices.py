"""What is said before anything is computed: skipped files, similar names, long work."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.captioning import Endpoint
from anyclass.commands.notices import notices
from anyclass.data import Classes, ImageDataset
from anyclass.methods.flyp import Flyp
from anyclass.methods.get import Get
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.simgcd import SimGcd
from anyclass.training.tuning import Tuning
from anyclass.training.two_views import TwoViewTuning


def said_of(
    dataset: ImageDataset, method: Any, device: str, precision: Any = "float32"
) -> list[str]:
    workload = method.workload(len(dataset), len(dataset.classes))
    return notices(dataset, workload, device, precision)


def test_notices__what_was_left_out(images: Path) -> None:
    (images / "notes.txt").write_text("a")
    known = ImageDataset.read(images, ("red square", "kite"))
    said = said_of(known, Flyp(tuning=Tuning(tune="head")), "cpu")
    assert len(said) == 1
    assert said[0].startswith("skipped files that are not images (1)")
    assert said_of(known, Flyp(tuning=Tuning(tune="all")), "cuda") == said
    slow = "no GPU: training from pixels takes hours, --tune head takes minutes"
    assert said_of(known, Flyp(tuning=Tuning(tune="all")), "cpu") == [*said, slow]


def test_notices__captions_without_a_language_model() -> None:
    some = ImageDataset(Path("x"), ("a.png",), np.full(1, -1), Classes.of(("kite", "art")))
    own = (
        "the captions are words of the model itself; --captioner endpoint asks a language model, "
        "as the paper does"
    )
    assert said_of(some, LatteClip(), "cuda") == [own]
    assert said_of(some, LatteClip(texts=("class", "group")), "cuda") == [own]
    assert said_of(some, LatteClip(texts=("class",)), "cuda") == [], "no caption is used"
    assert said_of(some, LatteClip(captioner=Endpoint(model="seer")), "cuda") == []


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
        (SimGcd(tuning=TwoViewTuning(views=0)), "--views 0 reads all images again"),
        (Flyp(), None),
    ],
)
def test_notices__how_long_pairs_take_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, method: Any, said: str | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    files = tuple(f"{i}.png" for i in range(4000))
    many = ImageDataset(Path("x"), files, np.full(4000, -1), Classes.of(()))
    assert said_of(many, method, "cuda") == []
    found = [line for line in said_of(many, method, "cpu") if "from pixels" not in line]
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
def test_notices__even_one_epoch_of_many_images_takes_long(
    monkeypatch: pytest.MonkeyPatch, amx: bool, precision: Any, minutes: int, end: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx})
    files = tuple(f"{i}.png" for i in range(200_000))
    many = ImageDataset(Path("x"), files, np.full(len(files), -1), Classes.of(()))
    (said,) = said_of(many, Get(), "cpu", precision)
    assert said.endswith(f"about {minutes} minutes, with --epochs 1 --tes-epochs 1 {end}")
    assert said_of(many[:200], Get(), "cpu", precision) == []


def test_notices__bf16_is_no_help_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    some = ImageDataset(Path("x"), ("a.png",), np.full(1, -1), Classes.of(()))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    (said,) = said_of(some, Get(), "cpu", "bf16")
    assert said.startswith("this processor has no AMX: --precision bf16 makes convolutions")
    assert said_of(some, Get(), "cuda", "bf16") == said_of(some, Get(), "cpu") == []


def test_notices__fp16_is_for_gpus() -> None:
    some = ImageDataset(Path("x"), ("a.png",), np.full(1, -1), Classes.of(()))
    (said,) = said_of(some, Get(), "cpu", "fp16")
    assert said.startswith("--precision fp16 is for GPUs without bfloat16")
    assert said_of(some, Get(), "cuda", "fp16") == []


def test_notices__texts_of_the_prompt_ensemble_where_there_are_many() -> None:
    names = [f"kind {i}" for i in range(1000)]
    many = ImageDataset(Path("x"), ("a.png",), np.full(1, 7), Classes.of(names))
    workload = Flyp(tuning=Tuning("head")).workload(1, 1000)
    (said,) = notices(many, workload, "cpu")
    assert "80 prompt templates encodes 81,000 texts, about 8 minutes" in said
    assert "--no-prompt-ensemble" in said
    assert notices(many, workload, "cpu", prompt_ensemble=False) == []
    assert notices(many.unlabelled_copy(), workload, "cpu") == [], "nothing is scored"
