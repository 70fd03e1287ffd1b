"""The catalogue of a run: its orders against the rows of its predictions."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyclass.errors import RequestError
from anyclass.review.catalogue import Catalogue
from anyclass.run.columns import COMPARED
from tests.review.conftest import BROKEN, HOSTILE_CLASS, HOSTILE_FILE, Reviewed

ROWS = [  # file_name, label, score, status, familiarity, zero-shot label and score, label_quality
    ("0.png", "cat", 0.9, "ok", 0.5, "cat", 0.2, None),
    ("1.png", "dog", 0.8, "ok", 0.01, "cat", 0.7, None),
    ("2.png", "dog", 1.0, "given", 0.02, "cat", 0.3, 0.4),
    ("3.png", None, None, "rejected", None, None, None, None),
    ("4.png", "cat", 0.6, "ok", 0.3, "dog", 0.9, None),
    ("5.png", "cat", 1.0, "given", 0.9, "cat", 0.5, 0.1),
]
COLUMNS = ("file_name", "label", "score", "status", "familiarity")
COLUMNS += ("zero_shot_label", "zero_shot_score", "label_quality")


@pytest.fixture
def catalogue(run: Path, reviewed: Reviewed) -> Catalogue:
    """A run with these predictions."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows, COMPARED), run / "predictions.parquet")
    return Catalogue.read(run)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("least_confident", [1, 4, 0, 2, 5]),  # 1: 0.8 * 0.01 / 0.05
        ("most_confident", [2, 5, 0, 4, 1]),
        ("changed", [1, 4]),  # the smaller of both scores: 0.7, 0.6; 2 has a given label
        ("suspicious", [5, 2]),
        ("file_name", [0, 1, 2, 4, 5]),
    ],
)
def test_view__orders(catalogue: Catalogue, sort: str, expected: list[int]) -> None:
    assert catalogue.view(sort, None, "all", {}) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [0.05, 0.2])
def test_ranked__where_scores_are_an_order_alone(run: Path, error: float) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["expected"] |= {"accuracy": 0.5, "calibration_error": error}
    (run / "metrics.json").write_text(json.dumps(metrics))
    catalogue = Catalogue.read(run)
    statuses = catalogue.columns["status"]
    assert catalogue.ranked == (statuses.count("ok") if error > 0.1 else 0)
    assert sorted(filter(None, catalogue.columns["rank"])) == [*range(1, statuses.count("ok") + 1)]


def test_view__of_a_class_and_of_what_is_checked(catalogue: Catalogue) -> None:
    corrections = {"0.png": "dog", "5.png": ""}
    view = catalogue.view
    assert view("file_name", "dog", "all", corrections) == [0, 1, 2]
    assert view("file_name", "", "all", corrections) == [5]
    assert view("file_name", None, "checked", corrections) == [0, 5]
    assert view("file_name", "cat", "unchecked", corrections) == [4]
    assert catalogue.counts(corrections) == {"dog": 3, "": 1, "cat": 1}


def test_row__tells_the_confidence(catalogue: Catalogue) -> None:
    assert catalogue.row(1)["confidence"] == pytest.approx(0.8 * 0.01 / 0.05)
    assert catalogue.row(2)["confidence"] == 1  # given
    assert catalogue.row(3)["confidence"] is None


def test_read__real_run(reviewed: Reviewed) -> None:
    catalogue = Catalogue.read(reviewed.run)
    assert len(catalogue) == 30
    assert [name for i, name in enumerate(catalogue.files) if not catalogue.usable(i)] == [BROKEN]
    dataset, rows = catalogue.dataset()
    assert [catalogue.files[i] for i in rows] == list(dataset.files)
    assert HOSTILE_FILE in dataset.files
    assert HOSTILE_CLASS in catalogue.classes.names
    assert sum(catalogue.given(i) for i in range(30)) == 9


def test_read__run_of_an_older_version(run: Path) -> None:
    table = pq.read_table(run / "predictions.parquet")
    old = table.drop_columns(["familiarity", "opinion", "label_quality", "zero_shot_label"])
    pq.write_table(old, run / "predictions.parquet")
    catalogue = Catalogue.read(run)
    assert catalogue.view("suspicious", None, "all", {}) == []
    assert catalogue.view("changed", None, "all", {}) == []
    assert len(catalogue.view("least_confident", None, "all", {})) == 29


def test_read__without_images(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text("utf-8"))
    (run / "config.json").write_text(json.dumps(config | {"images": str(tmp_path / "gone")}))
    with pytest.raises(RequestError, match=r"the images in .*gone, which is no folder now"):
        Catalogue.read(run)
    (run / "config.json").write_text(json.dumps(config | {"images": None, "features": "x.npz"}))
    with pytest.raises(RequestError, match="fitted on features, so there is no image to show"):
        Catalogue.read(run)
    with pytest.raises(RequestError, match="contains no run"):
        Catalogue.read(tmp_path)
