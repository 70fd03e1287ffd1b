"""`Predictions`: labels in order, the table behind them, and how both show themselves."""

import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from anyclass.api.display import run_html
from anyclass.api.predictions import Predictions
from anyclass.run.columns import PREDICTION

ROWS = [
    {"file_name": "a.png", "label": "cat", "score": 0.75, "runner_up": "dog", "status": "ok"},
    {"file_name": "b.png", "status": "rejected", "reason": "missing"},
    {"file_name": "c.png", "label": "dog", "score": 0.5, "runner_up": "eel", "status": "ok"},
    {"file_name": "d.png", "label": "cat", "score": 0.9, "runner_up": "eel", "status": "ok"},
]
PROBABILITIES = np.array(
    [[0.75, 0.2, 0.05], [np.nan] * 3, [0.1, 0.5, 0.4], [0.9, 0.04, 0.06]], np.float32
)
HOSTILE = '<img src=x onerror=alert(1)>"\u202e\x1b[2J'


def predictions(rows: list[dict[str, Any]] = ROWS, **more: Any) -> Predictions:
    table = pa.Table.from_pylist(rows, schema=PREDICTION)
    return Predictions(table, ["cat", "dog", "eel"], PROBABILITIES, **more)


def test_sequence__of_labels() -> None:
    found = predictions()
    assert list(found) == found.labels == ["cat", None, "dog", "cat"]
    assert found[0] == "cat"
    assert found[-2] == "dog"
    assert len(found) == 4
    assert "dog" in found
    assert found.counts() == {"cat": 2, "dog": 1}
    assert found.reasons == {"b.png": "missing"}
    assert found.names == ["a.png", "b.png", "c.png", "d.png"]
    assert found.scores[[0, 2, 3]].tolist() == pytest.approx([0.75, 0.5, 0.9])
    assert np.isnan(found.scores[1])
    assert np.asarray(found, object).tolist() == found.labels


def test_slice__keeps_rows_and_probabilities_together() -> None:
    part = predictions(index=np.array([7, 8, 9, 10]))[1:4:2]
    assert part.labels == [None, "cat"]
    assert part.probabilities is not None
    assert part.probabilities[1].tolist() == PROBABILITIES[3].tolist()
    assert part.index.tolist() == [8, 10]
    assert predictions()[:0].labels == []


def test_top__the_most_probable_classes_of_each_image() -> None:
    found = predictions().top(2)
    assert [[name for name, _ in row] for row in found] == [
        ["cat", "dog"],
        [],
        ["dog", "eel"],
        ["cat", "eel"],
    ]
    assert found[2][1][1] == pytest.approx(0.4)
    assert len(predictions().top(9)[0]) == 3


def test_repr__a_plain_table() -> None:
    text = repr(predictions())
    head, *lines = text.splitlines()
    assert head == "4 images, 1 without a label"
    assert lines[0].split() == ["file_name", "label", "score", "runner_up", "reason"]
    assert lines[1].split() == ["a.png", "cat", "0.750", "dog"]
    assert lines[2].split() == ["b.png", "missing"]
    long = [{"file_name": "x" * 60 + f"{i}.png", "label": "cat", "score": 0.5} for i in range(13)]
    text = repr(predictions(long))
    assert text.splitlines()[-1] == "... and 3 more; to_pandas() has all"
    assert "x0.png" in text
    assert max(map(len, text.splitlines())) < 80
    assert repr(predictions([])) == "0 images"
    assert repr(predictions([{"file_name": HOSTILE}])).count("\x1b") == 0


def test_html__is_escaped_small_and_without_scripts() -> None:
    rows = [{"file_name": HOSTILE, "label": HOSTILE, "score": 0.5, "status": "ok"}] * 15
    page = predictions(rows, thumbnail_of=lambda name: "data:image/jpeg;base64,AAAA")._repr_html_()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert page.count("<img ") == 10
    assert set(re.findall(r"<(\w+)", page)) <= {
        *("div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "img")
    }
    assert "... and 5 more" in page


def test_html__of_a_run_shows_images_of_each_class(fit: Any) -> None:
    page = fit.run._repr_html_()
    for name in fit.run.classes_:
        assert f">{name}</td>" in page
    assert page.count("data:image/webp;base64,") >= 4
    assert "accuracy" in page
    shown = fit.run.predict(fit.images)._repr_html_()
    assert shown.count("data:image/webp;base64,") == 9, "10 rows, one of them unreadable"


def test_html__of_a_run_has_the_words_of_the_report() -> None:
    kinds = {"cat": "labelled", "dog": "named", "discovered 1": "unknown"}
    run: Any = SimpleNamespace(
        lines=lambda: ["kmeans"],
        folder=Path("run"),
        predictions=predictions(),
        classes_=list(kinds),
        classifier=SimpleNamespace(classes=SimpleNamespace(kinds=list(kinds.values()))),
        metrics={"warnings": []},
    )
    page = run_html(run)
    assert re.findall(r">([^<]+)</th>", page)[-3:] == ["class", "kind", "count"]
    assert sorted(re.findall(r">(labelled|named\b[^<]*|unknown|discovered)</td>", page)) == [
        *("discovered", "labelled", "named only")
    ]


@pytest.mark.slow
def test_html__looks_like_a_table_in_a_browser(fit: Any, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    page = f"<!doctype html><meta charset=utf-8>{fit.run._repr_html_()}"
    (tmp_path / "page.html").write_text(page)
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=700,500"]
    picture = tmp_path / "page.png"
    command += [f"--screenshot={picture}", (tmp_path / "page.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    colours = Image.open(picture).convert("RGB").getcolors(2**20) or []
    assert len(colours) > 100, "thumbnails are visible"
