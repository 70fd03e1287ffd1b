"""Links in folders of images: followed below the folder that was named, nowhere else."""

from pathlib import Path

import pytest
from PIL import Image

from anyclass.data import ImageDataset
from anyclass.data.image import open_image, read_bytes
from anyclass.errors import ImageError, RequestError


def draw(path: Path, width: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 7), "teal").save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder with an own class, one linked from the pool and one from a private folder."""
    draw(tmp_path / "images" / "own" / "a.png")
    draw(tmp_path / "pool" / "cats" / "b.png", 11)
    draw(tmp_path / "private" / "c.png")
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "pool" / "cats")
    (tmp_path / "images" / "leak").symlink_to(tmp_path / "private")
    (tmp_path / "images" / "own" / "d.png").symlink_to(tmp_path / "private" / "c.png")
    return tmp_path / "images"


def test_links__nowhere_unless_a_folder_is_named(images: Path) -> None:
    dataset = ImageDataset.read(images, labels="folders")
    assert dataset.files == ("own/a.png", "own/d.png")
    assert dataset.skipped == (
        "skipped linked folders (2): 'cat', 'leak'; set ANYCLASS_LINKS to a folder to follow links "
        "that stay below it.",
    )
    with pytest.raises(ImageError, match="outside the folder.*private/c.png; set ANYCLASS_LINKS"):
        dataset.open(1)


def test_links__below_the_folder_that_is_named(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYCLASS_LINKS", str(images.parent / "pool"))
    dataset = ImageDataset.read(images, labels="folders")
    assert dataset.files == ("cat/b.png", "own/a.png", "own/d.png")
    assert [dataset.classes.names[c] for c in dataset.labels] == ["cat", "own", "own"]
    assert dataset.open(0)[1].size == (11, 7)
    assert "skipped linked folders (1): 'leak'" in dataset.skipped[0]
    with pytest.raises(ImageError, match="outside the folder"):
        dataset.open(2)


def test_links__only_for_what_is_named_below_the_images(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = images.parent / "pool"
    monkeypatch.setenv("ANYCLASS_LINKS", str(pool))
    assert open_image(images / "cat" / "b.png", images).size == (11, 7)
    for path in (pool / "cats" / "b.png", images / ".." / "pool" / "cats" / "b.png"):
        with pytest.raises(ImageError, match="outside the folder"):
            read_bytes(path, images)


def test_links__a_sibling_with_the_same_beginning_is_not_below(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images.parent / "poo").mkdir()
    monkeypatch.setenv("ANYCLASS_LINKS", str(images.parent / "poo"))
    assert ImageDataset.read(images).files == ("own/a.png", "own/d.png")


def test_links__from_there_on_do_not_lead_further(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cats = images.parent / "pool" / "cats"
    (cats / "on").symlink_to(images.parent / "private")
    (cats / "e.png").symlink_to(images.parent / "private" / "c.png")
    monkeypatch.setenv("ANYCLASS_LINKS", str(images.parent / "pool"))
    dataset = ImageDataset.read(images)
    assert dataset.files == ("cat/b.png", "cat/e.png", "own/a.png", "own/d.png")
    with pytest.raises(ImageError, match="outside the folder"):
        dataset.open(1)


def test_links__each_folder_once_and_no_circle(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = images.parent / "pool"
    (pool / "cats" / "up").symlink_to(pool)
    (pool / "cats" / "home").symlink_to(images)
    (pool / "broken").symlink_to("gone")
    (images / "kitten").symlink_to(pool / "cats")
    (images / "same").symlink_to(images / "own")
    monkeypatch.setenv("ANYCLASS_LINKS", str(images.parent))
    files = ImageDataset.read(images).files
    assert "kitten/b.png" not in files
    assert "same/a.png" not in files
    assert "leak/c.png" in files
    assert [file for file in files if file.endswith("b.png")] == [
        "cat/b.png",
        "cat/up/cats/b.png",
    ]


def test_links__a_folder_that_is_not_there_is_named(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYCLASS_LINKS", str(images / "own" / "a.png"))
    with pytest.raises(RequestError, match="ANYCLASS_LINKS is .*a.png', which is no folder: name"):
        ImageDataset.read(images)
