"""What a run must not compute twice: checksums, digests, engines, test views, estimates, models."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anyclass.backbone.backbone
import anyclass.commands.num_classes
import anyclass.data.loader
import anyclass.features.extract
import anyclass.features.store
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.methods import METHODS
from anyclass.methods.few_shot import FewShot
from anyclass.methods.get import Get
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.ship import Ship
from anyclass.methods.ship_vae import Vae
from anyclass.training.tuning import Tuning
from anyclass.training.two_views import TwoViewTuning

HALF = {"labels": "half.csv"}
SHOTS = FewShot(views=1)

RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "latteclip": (LatteClip(tuning=Tuning("head", steps=2, views=1)), {}),
    "ship": (
        Ship(then=METHODS["tip-adapter"](data=SHOTS, epochs=1), generator=Vae(epochs=1)),
        HALF,
    ),
    "get": (Get(tuning=TwoViewTuning(epochs=1, views=2), tes_epochs=1), HALF | {"unknown": 2}),
    "open-world": (METHODS["open-world"](rounds=1), HALF | {"unknown": "auto"}),
    "kmeans": (METHODS["kmeans"](), {"labels": None, "unknown": 4}),
}
"""A fit of each kind: nothing but names, some labels, unknown classes, their number unknown."""


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of the costly things is done."""
    done: Counter[str] = Counter()

    def count(module: Any, name: str, what: Callable[..., str]) -> None:
        real = getattr(module, name)

        def counted(*values: Any, **named: Any) -> Any:
            done[what(*values, **named)] += 1
            return real(*values, **named)

        monkeypatch.setattr(module, name, counted)

    loader, store = anyclass.data.loader, anyclass.features.store
    count(loader, "_read_checksum", lambda path, *_: f"checksum of {path.name}{path.parent.name}")
    count(anyclass.backbone.backbone, "_digest", lambda state: f"digest of {len(state)} tensors")
    count(anyclass.backbone.backbone, "load_model", lambda *_: "model loaded")
    count(store, "engine", lambda clip, part: f"engine of {part}")
    count(store, "extract", lambda clip, dataset, how, *_: f"{how} of {len(dataset)} images")
    estimated = "number of classes estimated"
    count(anyclass.commands.num_classes, "count_classes", lambda *_, **__: estimated)
    return done


def half_labelled(images: Path) -> Path:
    """A table with labels for all images of two of the four classes but one each."""
    files = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.*"))
    rows = [f"{f},{f.split('/')[0]}" for f in files if f[0] in "br" and "/0." not in f]
    table = images.parent / "half.csv"
    table.write_text("file_name,label\n" + "\n".join(rows) + "\n")
    return table


@pytest.mark.parametrize("name", RUNS)
def test_fit_and_evaluate__do_nothing_twice(
    name: str, shapes: dict[str, Any], tmp_path: Path, counts: Counter[str]
) -> None:
    method, more = RUNS[name]
    options = shapes | more
    if options["labels"] == "half.csv":
        options["labels"] = str(half_labelled(shapes["images"]))
    if options.get("unknown"):
        options["classes"] = None
    fit(method, out=tmp_path / "run", **options)
    assert counts["number of classes estimated"] == (options.get("unknown") == "auto")
    assert {what: n for what, n in counts.items() if n > 1} == {}
    assert sum(what.startswith("checksum") for what in counts) == 14
    assert counts["model loaded"] == 1
    counts.clear()
    evaluate(tmp_path / "run", shapes["images"], device="cpu", engine="torch")
    assert {what: n for what, n in counts.items() if n > 1} == {}
    assert counts["model loaded"] == 1
