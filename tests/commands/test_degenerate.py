"""Data that hardly are any: each method fits them with finite scores, or says why not."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from anyclass.commands.fit import fit
from anyclass.errors import AnyclassError
from anyclass.methods import METHODS
from tests.conftest import SHAPES, draw_shape

FOLDERS = {"labels": "folders"}
CASES: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "one image and its label": ({"a": 1}, FOLDERS | {"classes": ("a", "b")}),
    "one image and names": ({"a": 1}, {"classes": ("a", "b")}),
    "one class": ({"a": 5}, FOLDERS),
    "all of one of two classes": ({"a": 5}, FOLDERS | {"classes": ("a", "b")}),
    "one name": ({"a": 3, "b": 2}, {"classes": ("a",)}),
    "one label a class": ({"a": 1, "b": 1}, FOLDERS),
    "classes without a near image": ({"a": 3, "b": 2}, {"classes": ("a", "b", "zzz qqq", "xx")}),
    "more names than images": ({"a": 3}, {"classes": tuple(f"class {i}" for i in range(40))}),
    "more unknown classes than images": ({"a": 3, "b": 2}, FOLDERS | {"unknown": 30}),
    "nothing known": ({"a": 3, "b": 2}, {"unknown": 2}),
    "names that differ by case": ({"a": 3, "b": 2}, {"classes": ("a", "A", "a ")}),
    "names that are one to the model": ({"a": 3}, {"classes": ("\U0001f984", "\U0001f9ad")}),
    "equal images": ({"a": -4, "b": -4}, FOLDERS),
}
"""Number of images of each folder (negative: all alike), and what is known of them."""

SHORT = ("one image and its label", "nothing known", "equal images")
"""What `make test` gives to `auto`; all methods get all of them in `make harden`."""


def quick(name: str) -> Any:
    """A method with two steps or epochs, of the head."""
    method = METHODS[name]()
    known = {field.name for field in fields(method)}
    short: dict[str, Any] = {key: 2 for key in ("epochs", "tes_epochs", "steps") if key in known}
    if "tuning" in known:
        tuning = {field.name for field in fields(method.tuning)}
        few = {key: 2 for key in ("steps", "epochs") if key in tuning}
        short["tuning"] = replace(method.tuning, tune="head", **few)
    return replace(method, **short)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, marks=[] if name == "auto" and case in SHORT else pytest.mark.slow)
        for name in ("auto", *METHODS)
        for case in CASES
    ],
)
def test_fit__hardly_any_data(
    name: str, case: str, tiny_clip: Callable[..., str], tmp_path: Path
) -> None:
    counts, known = CASES[case]
    for (folder, count), shape in zip(counts.items(), SHAPES.values(), strict=False):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for i in range(abs(count)):
            drawn = draw_shape(shape, i if count > 0 else 0)
            drawn.save(tmp_path / "images" / folder / f"{i}.png")
    how = {"model": tiny_clip(), "device": "cpu", "engine": "torch", "prompt_ensemble": False}
    asked = "auto" if name == "auto" else quick(name)
    try:
        fit(asked, tmp_path / "run", images=tmp_path / "images", **known, **how)
    except AnyclassError as error:
        assert str(error).count("\n") <= 1
        assert not (tmp_path / "run" / "predictions.parquet").exists()
        return
    table = pq.read_table(tmp_path / "run" / "predictions.parquet")
    assert len(table) == sum(map(abs, counts.values()))
    assert set(table["status"].to_pylist()) <= {"ok", "given"}
    assert np.isfinite(np.array(table["score"].to_pylist(), float)).all()
