"""Tables of predictions as labels: only what a person changed or confirmed, and what was given."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anyclass.data.label_tables import KnownLabels, TableLabels, read_labels
from anyclass.errors import RequestError

FILES = [f"{letter}.jpg" for letter in "abcdefg"]
COLUMNS = ("file_name", "label")
ROWS: list[dict[str, Any]] = [
    {"file_name": "a.jpg", "label": "cat", "predicted_label": "cat", "status": "ok"},
    {"file_name": "b.jpg", "label": "dog", "predicted_label": "cat", "status": "ok"},
    {"file_name": "c.jpg", "label": "cow", "predicted_label": "cow", "status": "ok"},
    {"file_name": "d.jpg", "label": "cow", "predicted_label": "", "status": "given"},
    {"file_name": "e.jpg", "label": "cat", "predicted_label": "", "status": "unsure"},
    {"file_name": "f.jpg", "label": "", "predicted_label": "cat", "status": "ok"},
    {"file_name": "g.jpg", "label": "", "predicted_label": "", "status": "given"},
]
ROWS[2] |= {"confirmed": "yes"}
TAKEN = {"b.jpg": "dog", "c.jpg": "cow", "d.jpg": "cow", "e.jpg": "cat"}


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = dict.fromkeys(key for row in rows for key in row)
    full = [{key: row.get(key) for key in columns} for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(full), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in full))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(full)
    return path


def read(path: Path, known: KnownLabels | None = None) -> TableLabels:
    return read_labels(path, path.parent, FILES, COLUMNS, known)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_read_labels__takes_what_a_person_wrote(tmp_path: Path, ending: str) -> None:
    found = read(table(tmp_path / f"edited.{ending}", ROWS))
    assert found.labels == TAKEN
    assert found.removed == {"g.jpg"}
    assert found.messages == (
        f"3 of 7 rows of edited.{ending} were changed or confirmed, 1 given: these are labels. "
        "Other rows are predictions.",
    )


@pytest.mark.parametrize("word", ["yes", "1", "TRUE", "x", " Y ", "✓", "ja", "WAHR"])
def test_read_labels__confirmed(tmp_path: Path, word: str) -> None:
    assert read(table(tmp_path / "t.csv", [ROWS[0] | {"confirmed": word}])).labels == {
        "a.jpg": "cat"
    }


@pytest.mark.parametrize("word", ["", "no", "0", "False", "Nein"])
def test_read_labels__not_confirmed(tmp_path: Path, word: str) -> None:
    found = read(table(tmp_path / "t.csv", [ROWS[0] | {"confirmed": word}]))
    assert found.labels == {}
    assert "none of the 1 rows of t.csv was changed or confirmed" in found.messages[0]


def test_read_labels__confirmed_must_be_yes_or_no(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", [ROWS[0] | {"confirmed": "perhaps"}])
    with pytest.raises(RequestError, match="row 1: confirmed is 'perhaps'; write yes, or leave"):
        read(path)


OLD = [
    {"file_name": name, "label": label, "score": 0.5, "runner_up": "x", "margin": 0.1}
    | {"status": "ok"}
    for name, label in (("a.jpg", "cat"), ("b.jpg", "dog"))
]


def test_read_labels__predictions_of_a_version_without_the_column(tmp_path: Path) -> None:
    path = table(tmp_path / "old.csv", OLD)
    with pytest.raises(RequestError, match=r"without the column 'predicted_label'.*--from RUN"):
        read(path)
    known = KnownLabels({}, {"a.jpg": "cat", "b.jpg": "cat"})
    assert read(path, known).labels == {"b.jpg": "dog"}
    plain = [{key: row[key] for key in ("file_name", "label")} for row in OLD]
    assert read(table(tmp_path / "plain.csv", plain), known).labels == {
        "a.jpg": "cat",
        "b.jpg": "dog",
    }


def test_read_labels__another_column_is_taken_as_it_is(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", [row | {"true_label": "fox"} for row in ROWS])
    found = read_labels(path, tmp_path, FILES, ("file_name", "true_label"))
    assert found.labels == dict.fromkeys(FILES, "fox")
    assert found.messages == ()


def test_added_to__changes_and_removes() -> None:
    found = TableLabels({"a": "cat", "b": "dog"}, frozenset({"c"}), ())
    assert found.added_to({"b": "cow", "c": "cow", "d": "fox"}) == {
        "a": "cat",
        "b": "dog",
        "d": "fox",
    }
