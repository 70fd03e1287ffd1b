"""Images become parts: the same ones each time, each image in exactly one."""

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from anyclass.bulk.chunks import chunks
from anyclass.bulk.sources import Source, read_source
from anyclass.errors import RequestError
from tests.bulk.conftest import Elsewhere


def names(source: Source) -> list[str]:
    """Names of all images, part after part."""
    return [n for part in source.parts for chunk in chunks(source, part) for n in chunk.names]


def sizes(source: Source) -> list[tuple[int, int]]:
    """Size of each image that can be read."""
    found = []
    for part in source.parts:
        for chunk in chunks(source, part):
            for i in range(len(chunk.names)):
                found.append(chunk.dataset.open(i)[1].size)
    return found


@pytest.mark.parametrize("where", ["path", "file", "elsewhere"])
def test_read_source__files(images: Path, elsewhere: Elsewhere, where: str) -> None:
    (images / "notes.txt").write_text("no image")
    (images / ".hidden.png").write_bytes(b"x")
    places = {"path": str(images), "file": f"file://{images}", "elsewhere": elsewhere(images)}
    source = read_source(places[where], part_size=4)
    expected = sorted(p.relative_to(images).as_posix() for p in images.glob("*/*"))
    assert [len(part.files) for part in source.parts] == [4, 4, 4, 2]
    assert [part.number for part in source.parts] == [0, 1, 2, 3]
    assert (source.kind, source.total) == ("images", 14)
    assert names(source) == expected
    from anyclass.data.image import open_image

    assert sizes(source) == [open_image(images / name).size for name in expected]


def test_read_source__a_folder_of_images_is_listed_once(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    list_folder = os.scandir

    def counted(path: Any) -> Any:
        folders.append(Path(path).name)
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", counted)
    read_source(images, part_size=4)
    assert sorted(folders) == sorted([images.name, *(path.name for path in images.iterdir())])


def test_read_source__one_image_is_that_image_alone(images: Path) -> None:
    source = read_source(images / "red square" / "0.jpg", part_size=4)
    assert names(source) == ["0.jpg"]


def test_read_source__tables(table: Path, images: Path) -> None:
    source = read_source(table, part_size=3)
    assert (source.kind, source.total) == ("parquet", 14)
    groups = [(part.files[0], part.groups) for part in source.parts]
    a = [("a.parquet", (0, 1)), ("a.parquet", (2, 3)), ("a.parquet", (4,))]
    assert groups == [*a, ("b.parquet", (0,))]
    assert names(source) == sorted(p.relative_to(images).as_posix() for p in images.glob("*/*"))


def test_read_source__one_table_without_names(table: Path) -> None:
    bare = parquet.read_table(table / "a.parquet").drop_columns(["id"])
    parquet.write_table(bare, table / "a.parquet", row_group_size=4)
    source = read_source(table / "a.parquet", part_size=5)
    assert [part.groups for part in source.parts] == [(0, 1), (2,)]
    assert names(source) == [f"a.parquet#{i}" for i in range(9)]


def test_read_source__images_of_hugging_face(table: Path, images: Path) -> None:
    rows = parquet.read_table(table / "a.parquet").to_pylist()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": row["image"], "path": row["id"]} for row in rows]
    shutil.rmtree(table)
    table.mkdir()
    parquet.write_table(pa.table({"picture": pa.array(cells, kind)}), table / "x.parquet")
    source = read_source(table, part_size=100)
    assert names(source) == [row["id"] for row in rows]
    assert len(sizes(source)) == 9


def test_read_source__which_column(table: Path) -> None:
    two = pa.table({"left": [b"1"], "right": [b"2"]})
    parquet.write_table(two, table / "a.parquet")
    with pytest.raises(RequestError, match=r"more than one column .*left, right.*--image-column"):
        read_source(table, 3)
    with pytest.raises(RequestError, match="no column 'label' of bytes"):
        read_source(table, 3, "label")
    (table / "b.parquet").unlink()
    source = read_source(table, 3, "right")
    (chunk,) = chunks(source, source.parts[0], "right")
    assert chunk.dataset.memory == {"0": b"2"}


@pytest.mark.parametrize("away", [False, True])
def test_read_source__archives(archives: Path, elsewhere: Elsewhere, away: bool) -> None:
    source = read_source(elsewhere(archives) if away else archives, part_size=3)
    assert (source.kind, source.total) == ("webdataset", None)
    assert [part.files for part in source.parts] == [("0.tar",), ("sub/1.tar.gz",)]
    found = names(source)
    assert [name.rpartition("/")[0] for name in found] == ["0.tar"] * 8 + ["sub/1.tar.gz"] * 6
    assert found[:2] == ["0.tar/000.png", "0.tar/001.jpg"] or found[0].startswith("0.tar/000.")
    assert len(sizes(source)) == 14


def test_read_source__checksum_changes_with_the_files(images: Path) -> None:
    before = read_source(images, 4)
    assert read_source(images, 4).checksum == before.checksum
    file = images / before.parts[1].files[0]
    os.utime(file, ns=(1, 1))
    assert read_source(images, 4).checksum != before.checksum
    file.unlink()
    assert read_source(images, 4).checksum != before.checksum


def test_read_source__nothing(tmp_path: Path, elsewhere: Elsewhere) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for place in (tmp_path, f"file://{tmp_path}", elsewhere(tmp_path)):
        with pytest.raises(RequestError, match="there is no image in"):
            read_source(place, 3)
    with pytest.raises(RequestError, match="cannot be listed"):
        read_source(tmp_path / "gone", 3)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3://key:secret@bucket/x", "neither keys nor options"),
        ("s3://bucket/x?secret_key=1", "neither keys nor options"),
        ("simplecache::s3://bucket/x", "neither keys nor options"),
        ("nowhere://x", "cannot be opened"),
    ],
)
def test_read_source__refused_addresses(place: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as error:
        read_source(place, 3)
    assert "secret@" not in str(error.value)
