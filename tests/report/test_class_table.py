"""The table of classes: what matters first, the rest folded; and the size of a large report."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from anyclass.report.class_table import OPEN, class_rows, class_table, ordered
from anyclass.report.html import to_html, write_report
from anyclass.report.summary import summarise
from anyclass.run.columns import COMPARED
from anyclass.run.embedding_map import SAMPLE, EmbeddingMap, write_map


def rows_of(*classes: tuple[str, int, int, float | None]) -> list[dict[str, object]]:
    """Rows of classes: name, images, labels that are scored, accuracy."""
    names = ("name", "count", "n", "adapted")
    return [dict(zip(names, row, strict=True)) for row in classes]


def test_ordered__most_mistakes_first_then_most_images() -> None:
    rows = rows_of(("a", 9, 10, 0.9), ("b", 3, 4, 0.25), ("c", 70, 0, None), ("d", 80, 5, 1.0))
    assert [row["name"] for row in ordered(rows)] == ["b", "a", "d", "c"]


def test_folded__shows_the_first_and_names_the_empty() -> None:
    used = [(f"used {i}", i + 1, 0, None) for i in range(OPEN + 4)]
    found = class_table(rows_of(("empty", 0, 0, None), *used, ("missed", 0, 2, 0.0)))
    assert len(found["shown"]) == OPEN
    assert found["shown"][0]["name"] == "missed"
    assert found["shown"][1]["name"] == f"used {OPEN + 3}"
    assert [row["name"] for row in found["folded"]] == [f"used {i}" for i in (4, 3, 2, 1, 0)]
    assert [row["name"] for row in found["empty"]] == ["empty"]


def large_run(folder: Path, n: int, classes: int, pictures: int) -> Path:
    """A run of n images in so many classes, most of them empty; few files under many names."""
    draw = np.random.default_rng(0)
    photos = folder / "photos"
    photos.mkdir()
    for i in range(pictures):
        pixels = draw.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((400, 300)).save(photos / f"{i}.jpg", quality=80)
    files = [f"{i % pictures}.jpg" for i in range(n)]
    for i in range(pictures, min(n, 4000)):
        files[i] = f"link {i}.jpg"
        (photos / files[i]).hardlink_to(photos / f"{i % pictures}.jpg")
    names = [f"class {c}" for c in range(classes)]
    predicted = draw.zipf(1.5, n) % classes
    cells: dict[str, list[object]] = {field.name: [None] * n for field in COMPARED}
    cells["file_name"] = list(files)
    cells["label"] = [names[c] for c in predicted]
    cells["runner_up"] = [names[(c + 1) % classes] for c in predicted]
    cells["zero_shot_label"] = [names[c] for c in draw.permutation(predicted)]
    cells["true_label"] = [
        names[c] if i % 2 else None for i, c in enumerate(draw.permutation(predicted))
    ]
    cells["status"] = ["ok"] * n
    for name in ("score", "margin", "zero_shot_score"):
        cells[name] = draw.random(n).tolist()
    run = folder / "run"
    run.mkdir()
    columns = {field.name: pa.array(cells[field.name], field.type) for field in COMPARED}
    pq.write_table(pa.table(columns), run / "predictions.parquet")
    write_map(run, EmbeddingMap(files[:SAMPLE], draw.random((min(n, SAMPLE), 2))))
    per_class = [{"name": name, "n": n // classes, "accuracy": 0.5} for name in names]
    scores = {"accuracy": 0.5, "mean_per_class": 0.5, "n": n // 2, "per_class": per_class}
    texts = [
        {"kind": kind, "class": "class 1", "file_name": file, "files": [file], "text": "words"}
        for kind in ("image", "group")
        for file in files
    ]
    found = [
        {"name": name, "kind": "unknown", "suggested": "x", "runners_up": [], "confidence": "maybe"}
        | {"typical": files[9 * c : 9 * c + 9], "borderline": files[-9:]}
        for c, name in enumerate(names[-40:])
    ]
    content = {
        "metrics.json": {
            **{"n": n, "changed": 0.1, "zero_shot": scores, "zero_shot_ensemble": None},
            **{"adapted": scores, "why_null": None, "seconds": {"total": 9.0}, "facts": {}},
            **{"warnings": [], "confusion": draw.integers(0, 9, (classes, classes)).tolist()},
        },
        "config.json": {
            **{"images": str(photos), "model": "starter", "asked": "auto", "method": "open-world"},
            **{"why": ["all"], "fields": {}, "seed": 0, "again": None},
        },
        "environment.json": {"started": "today"},
        "classes.json": {
            "names": names,
            "kinds": ["named"] * (classes - 40) + ["unknown"] * 40,
        },
        "naming.json": {"hit_rate_known": None, "known": 0, "classes": found},
    }
    for name, value in content.items():
        (run / name).write_text(json.dumps(value))
    (run / "descriptions.jsonl").write_text("\n".join(map(json.dumps, texts)))
    return run


def test_write__a_run_of_many_classes_is_short_and_says_which_are_empty(tmp_path: Path) -> None:
    run = large_run(tmp_path, n=600, classes=300, pictures=5)
    summary = summarise(run, thumbnails=False)
    assert len(summary["classes"]) == 300
    assert len(summary["table"]["shown"]) == OPEN
    counts = [row["count"] for row in summary["classes"]]
    assert sum(counts) == 600
    assert summary["gallery"][0]["row"]["count"] > 0
    page = to_html(summary)
    assert "more classes</summary>" in page
    assert page.count("<tr>") < 400


@pytest.mark.slow
def test_write__a_hundred_thousand_images_fit_in_ten_megabytes(tmp_path: Path) -> None:
    path = write_report(large_run(tmp_path, n=100_000, classes=300, pictures=40))
    assert 1_000_000 < path.stat().st_size < 10_000_000


def test_class_rows__leave_out_images_without_a_class() -> None:
    columns = {
        "label": ["wren", None, "found"],
        "score": [0.5, None, 0.25],
        "status": ["ok", "ok", "ok"],
        "true_label": [None, None, None],
    }
    columns["true_label"] = pa.array(columns["true_label"], pa.string())
    classes = {"names": ["wren"], "kinds": ["named"]}
    metrics = {"zero_shot": None, "adapted": None}
    rows = class_rows(classes, metrics, pa.table(columns))
    assert [(row["name"], row["count"], row["known"]) for row in rows] == [
        ("wren", 1, "named only"),
        ("found", 1, "discovered"),
    ]
