"""What a run must not compute twice: checksums, digests, engines, test views, estimates, models."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anyclass.backbone.backbone
import anyclass.commands.num_classes
import anyclass.data.content_hash
import anyclass.features.extract
import anyclass.features.store
from anyclass.backbone.loaded_model import LoadedModel
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.methods import METHODS, Situation
from tests.methods.test_random_state import SHORT

HALF = {"labels": "half.csv"}
ASKED: dict[Situation, dict[str, Any]] = {
    Situation.ANY: HALF | {"unknown": "auto"},
    Situation.NAMES: {},
    Situation.NAMES_AND_LABELS: HALF,
    Situation.UNKNOWN: HALF | {"unknown": 2},
    Situation.NOTHING: {"labels": None, "unknown": 4},
}
"""What is given in each situation."""


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

    hashing, store = anyclass.data.content_hash, anyclass.features.store
    count(hashing, "_read_checksum", lambda path, *_: f"checksum of {path.name}{path.parent.name}")
    count(
        LoadedModel,
        "digest",
        lambda _, **which: f"digest without {sorted(which.get('without', ()))}",
    )
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


def options_of(name: str, shapes: dict[str, Any]) -> dict[str, Any]:
    """A request in the situation that a method is for."""
    options = shapes | ASKED[METHODS[name].info.situations[0]]
    if options["labels"] == "half.csv":
        options["labels"] = str(half_labelled(shapes["images"]))
    if options.get("unknown"):
        options["classes"] = None
    return options


@pytest.mark.parametrize("name", METHODS)
def test_fit_and_evaluate__do_nothing_twice(
    name: str, shapes: dict[str, Any], tmp_path: Path, counts: Counter[str]
) -> None:
    options = options_of(name, shapes)
    fit(METHODS[name](**SHORT.get(name, {})), out=tmp_path / "run", **options)
    assert counts["number of classes estimated"] == (options.get("unknown") == "auto")
    assert {what: n for what, n in counts.items() if n > 1} == {}
    assert sum(what.startswith("checksum") for what in counts) == 14
    assert counts["model loaded"] <= 1
    counts.clear()
    evaluate(tmp_path / "run", shapes["images"], device="cpu", engine="torch")
    assert {what: n for what, n in counts.items() if n > 1} == {}
    assert counts["model loaded"] == 1


@pytest.mark.parametrize("name", ["zero-shot", "open-world"])
def test_fit__again_needs_no_model(
    name: str,
    shapes: dict[str, Any],
    tmp_path: Path,
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # the tiny context has 16 tokens, so that each text is tokenised
    monkeypatch.setattr("anyclass.auditing.labels.cut_texts", lambda *_: [])
    options = options_of(name, shapes)
    fit(name, tmp_path / "first", **options)
    counts.clear()
    fit(name, tmp_path / "again", **options)
    assert counts["model loaded"] == 0
    assert [what for what in counts if what.startswith("digest")] == []
    for file in ("predictions.csv", "model/classifier.safetensors", "map.parquet"):
        again = (tmp_path / "again" / file).read_bytes()
        assert again == (tmp_path / "first" / file).read_bytes()
