"""Findings in words and as tables: counts, hostile names, what is not overwritten."""

import csv
import json
from pathlib import Path

import pytest

from anyclass.auditing.findings import (
    COLUMNS,
    Audit,
    Finding,
    check_writable,
    groups_of,
)
from anyclass.errors import RequestError, StorageError

DARK = Finding(
    "dark",
    "5 images are dark",
    "brighten them",
    [{"file_name": f"{i}.jpg", "value": 0.1 * i} for i in range(5)],
    "below 0.5",
)
TWINS = Finding("similar-names", "1 pair", "keep one", [{"label": "=cat", "other": "Cat"}])


def test_audit__in_words() -> None:
    found = Audit([DARK, TWINS], ["pixels", "names"])
    assert str(found).splitlines() == [
        "5 images are dark",
        "  0.jpg, 1.jpg, 2.jpg and 2 more",
        "  brighten them",
        "1 pair",
        "  =cat (Cat)",
        "  keep one",
    ]
    assert str(Audit([], ["pixels", "names"])) == "nothing found (pixels, names)"


def test_audit__as_tables(tmp_path: Path) -> None:
    found = Audit([DARK, TWINS], ["pixels"])
    assert [row["file_name"] for row in found["dark"]] == [f"{i}.jpg" for i in range(5)]
    assert found["bright"] == []
    assert [set(row) for row in found.rows] == [set(COLUMNS)] * 6
    table = found.to_arrow()
    assert table.column_names == list(COLUMNS)
    assert table["value"].to_pylist()[4:] == [0.4, None]
    assert table["issue"].to_pylist()[-1] == "similar-names"
    found.write(tmp_path / "new")
    with (tmp_path / "new" / "audit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[4]["value"] == "0.4"
    assert rows[5]["label"] == "'=cat", "a spreadsheet would run it"
    said = json.loads((tmp_path / "new" / "audit.json").read_text())
    assert said["checked"] == ["pixels"]
    assert [(row["issue"], row["count"]) for row in said["findings"]] == [
        ("dark", 5),
        ("similar-names", 1),
    ]
    assert said["findings"][0]["rows"] == DARK.rows
    assert said["findings"][0]["criterion"] == "below 0.5"


def test_audit__as_data_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = Audit([DARK]).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["file_name"].tolist() == [f"{i}.jpg" for i in range(5)]


def test_check_writable__a_read_only_folder_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    check_writable(tmp_path.parent, True)
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(StorageError, match=r"audit\.csv cannot be written: Permission denied"):
            check_writable(folder, True)


def test_check_writable__replaces_only_when_asked(tmp_path: Path) -> None:
    check_writable(tmp_path / "new", False)
    (tmp_path / "audit.csv").write_text("mine")
    with pytest.raises(RequestError, match=r"audit\.csv exists.*--overwrite"):
        check_writable(tmp_path, False)
    check_writable(tmp_path, True)
    with pytest.raises(RequestError, match="is a file"):
        check_writable(tmp_path / "audit.csv", True)


def test_groups_of__joins_through_others() -> None:
    assert groups_of([(5, 1), (7, 2), (1, 4)], 9) == [[1, 4, 5], [2, 7]]
    assert groups_of([], 9) == []
