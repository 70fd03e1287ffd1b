"""Corrections: on disk at once, undone step by step, given back as a table of labels."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from anyclass.data.label_tables import KnownLabels, read_labels
from anyclass.errors import AnyclassError, StorageError
from anyclass.review.corrections import Corrections, table_of


def test_corrections__undo_walks_back_through_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "new" / "corrections.sqlite"
    first = Corrections(path)
    first.record({"a.png": "cat", "b.png": "dog"}, "2 images")
    first.record({"a.png": "cow"}, "1 image: cow")
    first.record({"b.png": None}, "1 image: no label")
    assert first.labels == {"a.png": "cow"}
    first.close()

    second = Corrections(path)
    assert second.labels == {"a.png": "cow"}
    steps = []
    while (step := second.last()) is not None:
        steps.append((step.title, sorted(second.undo(step)), dict(second.labels)))
    assert steps == [
        ("1 image: no label", ["b.png"], {"a.png": "cow", "b.png": "dog"}),
        ("1 image: cow", ["a.png"], {"a.png": "cat", "b.png": "dog"}),
        ("2 images", ["a.png", "b.png"], {}),
    ]
    second.record({"c.png": "cat"}, "1 image: cat")
    last = second.last()
    assert last is not None and last.title == "1 image: cat"
    second.close()


def test_corrections__of_two_processes_are_seen_by_both(tmp_path: Path) -> None:
    first = Corrections(tmp_path / "corrections.sqlite")
    second = Corrections(tmp_path / "corrections.sqlite")
    first.record({"a.png": "cat"}, "one")
    second.record({"a.png": "dog", "b.png": "cow"}, "two")
    assert first.labels == second.labels == {"a.png": "dog", "b.png": "cow"}
    last = first.last()
    assert last is not None and last.title == "two"
    first.undo(last)
    assert second.labels == {"a.png": "cat"} and second.get("b.png") is None
    first.close()
    second.close()


def test_corrections__survive_a_kill(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from anyclass.review.corrections import Corrections
        corrections = Corrections(Path(sys.argv[1]))
        for i in range(5):
            corrections.record({f"{i}.png": "cat"}, "one")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "corrections.sqlite"
    killed = subprocess.run([sys.executable, "-c", code, str(path)])
    assert killed.returncode == -signal.SIGKILL
    assert Corrections(path).labels == {f"{i}.png": "cat" for i in range(5)}
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_corrections__damaged_file_or_folder_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "corrections.sqlite"
    path.write_bytes(b"this is no database, whatever its name says " * 40)
    with pytest.raises(AnyclassError, match="is damaged .*move it away"):
        Corrections(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Corrections(tmp_path / "file" / "corrections.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_corrections__read_only_folder_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        Corrections(tmp_path / "corrections.sqlite")


FILES = ("a.png", "=1+1.png", "sub/ö, b.png", "given.png")


def test_table_of__is_a_table_of_labels(tmp_path: Path) -> None:
    labels = {"sub/ö, b.png": 'a "name"', "=1+1.png": "=cat", "a.png": "dog"}
    table = tmp_path / "corrections.csv"
    table.write_text(table_of(labels), encoding="utf-8")
    assert table.read_text("utf-8").splitlines()[0] == "file_name,label"
    assert "'=1+1.png" in table.read_text("utf-8")
    found = read_labels(table, tmp_path, FILES, ("file_name", "label"))
    assert found.labels == labels
    assert found.removed == frozenset()


def test_table_of__takes_a_given_label_back(tmp_path: Path) -> None:
    table = tmp_path / "corrections.csv"
    table.write_text(table_of({"given.png": "", "a.png": "dog"}), encoding="utf-8")
    known = KnownLabels({"given.png": "cat"}, {"a.png": "dog"})
    found = read_labels(table, tmp_path, FILES, ("file_name", "label"), known)
    assert found.labels == {"a.png": "dog"}  # confirmed, although it is what was predicted
    assert found.added_to(known.labels) == {"a.png": "dog"}
