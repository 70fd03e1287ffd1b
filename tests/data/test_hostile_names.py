"""One table of hostile names, at every door that takes names: nothing outside is touched."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from anyclass.data import Classes, ImageDataset
from anyclass.data.feature_tables import read_features
from anyclass.errors import AnyclassError
from anyclass.exporting.folders import write_folders
from anyclass.exporting.predictions import LabelledPredictions
from anyclass.files import slug
from anyclass.run.columns import COMPARED
from anyclass.run.tables import write_table

HOSTILE = {
    "parents": "../../../victim/.bashrc",
    "absolute": "/etc/passwd",
    "drive": "C:\\Windows\\system32",
    "share": "\\\\server\\share\\x",
    "device": "NUL",
    "device with an ending": "con.txt",
    "NUL byte": "a\0b",
    "newline": "a\nb",
    "invalid UTF-8": "\udc80\udcff",
    "long": "x" * 300,
    "dots": "..",
    "home": "~/.ssh/id_rsa",
    "markup": '"><script>alert(1)</script>',
    "turned": "\u202egpj.exe",
    "empty": "",
}

hostile_names = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


@hostile_names
def test_class_names__are_refused_or_become_one_safe_folder(name: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "0.jpg").write_bytes(b"x")
    (tmp_path / "names.txt").write_text(f"{name}\nplain\n", errors="surrogateescape")
    for names in ([name, "plain"], tmp_path / "names.txt"):
        try:
            classes = Classes.read(names)
        except AnyclassError as error:
            assert "\n" not in str(error)
        else:
            assert "\0" not in "".join(classes.names)
    try:
        row = {"file_name": "0.jpg", "label": name, "score": 0.5, "status": "ok"}
        write_table(tmp_path / "of.parquet", [row], COMPARED)
        found = LabelledPredictions.read(tmp_path / "of.parquet", images)
        write_folders(tmp_path / "out", found)
    except (AnyclassError, UnicodeEncodeError):  # Arrow takes no broken text: nothing is written
        return
    written = everything(tmp_path) - {"images", "images/0.jpg", "names.txt", "of.parquet"}
    assert written == {"out", "out/classes.csv", f"out/{slug(name)}", f"out/{slug(name)}/0.jpg"}
    assert len(slug(name)) < 80


@hostile_names
def test_label_tables__name_no_file_outside(name: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "0.jpg").write_bytes(b"x")
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / ".bashrc").write_bytes(b"precious")
    table = tmp_path / "labels.csv"
    quoted = name.replace('"', '""')
    text = f'file_name,label\n0.jpg,a\n"{quoted}",b\n'
    table.write_text(text, errors="surrogateescape", newline="\n")
    before = everything(tmp_path)
    try:
        dataset = ImageDataset.read(images, None, str(table))
    except AnyclassError as error:
        assert "\0" not in str(error)
    else:
        assert dataset.files == ("0.jpg",)
    assert everything(tmp_path) == before


@hostile_names
def test_predictions__lead_to_no_file_outside(name: str, tmp_path: Path) -> None:
    images = tmp_path / "deep" / "er" / "images"
    images.mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / ".bashrc").write_bytes(b"precious")
    (images / "0.jpg").write_bytes(b"x")
    rows = [{"file_name": f, "label": "a", "score": 0.5, "status": "ok"} for f in ("0.jpg", name)]
    try:
        write_table(tmp_path / "of.parquet", rows, COMPARED)
    except UnicodeEncodeError:
        return
    assert pq.read_table(tmp_path / "of.parquet")["file_name"].to_pylist() == ["0.jpg", name]
    found = LabelledPredictions.read(tmp_path / "of.parquet", images)
    assert [row["file_name"] for row in found.rows] == ["0.jpg"]


@hostile_names
def test_feature_tables__names_stay_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    rows = np.eye(3, 5, dtype=np.float32)
    np.savez(path, features=rows, names=np.array([name, "1.jpg", "2.jpg"]))
    before = everything(tmp_path)
    try:
        table = read_features(path)
    except AnyclassError as error:
        assert "\n" not in str(error)
    else:
        assert len(table.names) == 3
    assert everything(tmp_path) == before
