"""Files with the same content: by bytes, through links, and not by size or beginning alone."""

import os
from pathlib import Path

import pytest

from anyclass.data import ImageDataset
from anyclass.data.copies import HEAD, Place, linked_files, places, same_content


def add(root: Path, **contents: bytes) -> list[Place]:
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return [Place(root / name, root) for name in contents]


def test_same_content__groups_equal_bytes(tmp_path: Path) -> None:
    long = bytes(HEAD) + b"1"
    other = bytes(HEAD) + b"2"  # the same size and beginning
    files = add(tmp_path, a=b"xx", b=long, c=b"xy", d=other, e=b"xx", f=long, g=b"xx", h=b"y")
    found = same_content(files)
    assert found.groups == [[0, 4, 6], [1, 5]]
    assert found.linked == frozenset()


def test_same_content__of_links_and_what_is_no_file(tmp_path: Path) -> None:
    files = add(tmp_path, a=b"1", b=b"22", c=b"1", d=b"333")
    (tmp_path / "e").symlink_to(tmp_path / "b")
    os.link(tmp_path / "c", tmp_path / "f")
    os.mkfifo(tmp_path / "pipe")  # must not hang
    files += [Place(tmp_path / name, tmp_path) for name in ("e", "f", "pipe", "gone")]
    found = same_content(files)
    assert found.groups == [[0, 2, 5], [1, 4]]
    assert found.linked == {1, 2, 4, 5}
    assert linked_files({7: tmp_path / "b", 8: tmp_path / "e", 9: tmp_path / "a"}) == {7, 8}


def test_same_content__reads_a_linked_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = add(tmp_path, a=b"1", b=b"1", c=b"2")
    for i in range(20):
        (tmp_path / f"link{i}").symlink_to(tmp_path / "a")
        files.append(Place(tmp_path / f"link{i}", tmp_path))
    opened: list[str] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a: opened.append(self.name) or real(self, *a))
    assert [len(group) for group in same_content(files).groups] == [22]
    assert sorted(opened) == ["a", "b", "c"]


def test_places__are_those_of_a_dataset(images: Path) -> None:
    dataset = ImageDataset.read(images)
    assert places(dataset)[3] == (dataset.path(3), dataset.root)
